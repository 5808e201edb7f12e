"""``python -m tests.fullstack --nodes 30 --time 60``: the whole stack in virtual time, in figures.

Every node runs the daemon as it is (libp2p, Noise, yamux, gossip, DHT, HTTP, mock engine) on a virtual TCP network.
The same run goes on the simulator (``--layer heap``; ``costs``: with processors that cost what the daemon's do) and
with real processes (``--layer real``); ``--layer all`` holds them against each other, and unless told otherwise in as
many runs as that takes (half an hour on two idle cores).
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import json
import pstats
import sys
from dataclasses import replace
from typing import Any

from tests.fullstack.agreement import ALL, LAYERS, SEEDS, measure, tables
from tests.fullstack.figures import MEANING, Run


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    default = Run()
    text = "\n".join(f"  {name}: {meaning}" for name, meaning in MEANING.items())
    parser = argparse.ArgumentParser(
        "python -m tests.fullstack", description=__doc__, epilog=f"figures:\n{text}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--nodes", type=int, default=default.nodes)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="one way, between any two nodes")
    parser.add_argument("--profile", default=default.profile, choices=["wan", "lan", "local", "test"])
    parser.add_argument(
        "--stagger", type=float, default=default.stagger_s, help="seconds between starts (virtual only)"
    )
    parser.add_argument("--warm", type=float, default=default.warm_s, help="seconds before the measured window")
    parser.add_argument("--time", type=float, default=default.time_s, help="seconds that are measured")
    parser.add_argument("--change-every", type=float, default=default.change_s, help="seconds between changed adverts")
    parser.add_argument("--jobs-per-s", type=float, default=default.jobs_per_s, help="Poisson, over all nodes")
    parser.add_argument("--prompt-tokens", type=int, default=default.prompt_tokens)
    parser.add_argument("--output-tokens", type=int, default=default.output_tokens)
    parser.add_argument("--gpu", default=default.gpu, help="of every node's mock engine")
    parser.add_argument("--layer", default="virtual", choices=[*LAYERS, "all"])
    parser.add_argument("--seeds", type=int, default=0, help="so many from --seed on, averaged [1; all: enough]")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cprofile", action="store_true", help="where the time goes (the run is then twice as slow)")
    found = parser.parse_args(given)
    if found.layer == "all":
        parser.set_defaults(warm=ALL.warm_s, time=ALL.time_s, change_every=ALL.change_s, jobs_per_s=ALL.jobs_per_s)
        found = parser.parse_args(given)
    return found


def run_of(given: argparse.Namespace) -> Run:
    return Run(
        given.nodes, given.seed, given.latency_ms / 1000, given.profile, given.stagger, given.warm, given.time,
        given.change_every, given.jobs_per_s, given.prompt_tokens, given.output_tokens, given.gpu,
    )  # fmt: skip


def main() -> None:
    given = arguments()
    run = run_of(given)
    if given.layer == "all":
        run = replace(run, one_way_s=0.0)  # as real processes on one machine have it
        found = {layer: measure(layer, run, _seeds(given, SEEDS[layer])) for layer in LAYERS}
        print(json.dumps(found) if given.json else "")
        sys.exit(not tables(found, lambda text: print(text, file=sys.stderr if given.json else sys.stdout)))
    profile = cProfile.Profile() if given.cprofile else None
    one = functools.partial(measure, given.layer, run, _seeds(given, 1))
    figures: dict[str, Any] = profile.runcall(one) if profile is not None else one()
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<26} {_shown(value):<64} {MEANING.get(name, '')}")
    if profile is not None:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)


def _seeds(given: argparse.Namespace, default: int) -> range:
    return range(given.seed, given.seed + (given.seeds or default))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_shown(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
