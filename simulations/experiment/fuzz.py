"""Random networks under random faults and attacks, drawn from a seed.  Only the invariants judge them.

Theory of operation
===================

A seed decides everything: the places of the nodes, their models, the jobs, churn, faults and attackers.  Every run ends
with a quiet phase, in which the network has to converge again (I9).  A seed that fails is saved in
``fuzz_regressions.toml``; later fuzzing runs start with the saved seeds.

One command repeats a failure: ``p2pnode sim fuzz --from-seed N --seeds 1``.

Not here: the faults of a chaotic run (``chaos``), the invariants (``invariants``), processes (``run_pool``).
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from protocol.settings import PROFILES, ConnectionSettings, NodeSettings
from simulations.attackers import KINDS as ATTACKERS
from simulations.experiment.run_pool import Audience, Made, Planned, RunPool
from simulations.rng_streams import rng_stream
from simulations.scenario import (
    Attack,
    Churn,
    EngineModel,
    Hardware,
    Lengths,
    Lookups,
    Measure,
    Model,
    Models,
    Scenario,
    Topology,
    Workload,
)
from simulations.sim.network import ACCEPT_TRIPS, HANDSHAKE_TRIPS, PROOF_TRIPS
from simulations.sim.topology import latencies

#: Seeds that failed once.
REGRESSIONS: Final = Path(__file__).parents[1] / "fuzz_regressions.toml"
NODES: Final = 30
TIME_S: Final = 300.0
#: The quiet phase, and within which part of it the network has to be whole (guess: what two probing periods and the
#: longest pause between two dials of a seed add up to).
QUIET_S: Final = 125.0
LIVENESS_S: Final = 110.0
#: No run is shorter than the quiet phase and what has to be healed in it.  The quiet phase of a short run cannot be
#: shorter itself: of 30 seeds at three minutes four needed 71 to 101 s.
LEAST_S: Final = 180.0
#: Newcomers in a crowd and the attacks that do not begin at once come then, or halfway to the quiet phase.
LATER_S: Final = 60.0
#: Share of the bad at most, and of the runs that have any.
BAD_SHARE: Final = 0.3
BAD_RUNS: Final = 0.6
#: Clock errors are drawn with this deviation at most, seconds: two 120 s apart do not believe each other (DESIGN 2.1),
#: and of thousands of pairs one is that if it is 20 s.
MOST_SKEW_S: Final = 10.0
#: The rates of some attackers, per second and link (guesses): ten times an honest node's and more, and few enough for a
#: run with them to last hardly longer than others.
AMOUNTS: Final = {"flooder": 8.0, "replayer": 50.0, "slanderer": 5.0}
#: Homes of a statement in the DHT: with the usual number every node would be a home in networks this small.
HOMES: Final = (4, 8, 8, 20)
_GPUS: Final = ("rtx 3090", "rtx 4070", "rtx 4090", "a100", "h100", "l4")
_CATALOGUE: Final = (
    Model(name="llama-3.1-8b-instruct"),
    Model(name="qwen2.5-7b-instruct"),
    Model(name="mistral-7b-instruct"),
)


# --- the meaning of a seed --------------------------------------------------------------------------------------------


def scenario_of(seed: int, nodes: int = NODES, duration_s: float = TIME_S) -> Scenario:
    """The run of one seed.  Raises ``ValueError`` where it would be too short to heal."""
    if duration_s < LEAST_S:
        raise ValueError(
            f"{duration_s:g} s are too few: {QUIET_S:g} s are for healing (I9), so write {LEAST_S:g}s or more"
        )
    rng = rng_stream(seed, "fuzz")
    until_s = duration_s - QUIET_S
    return Scenario(
        name=f"fuzz-{seed}",
        about="Drawn at random.",
        seeds=(seed,),
        duration_s=duration_s,
        warmup_s=20.0,
        quiet_s=QUIET_S,
        chaos=True,
        topology=_joinable(_topology(rng, nodes), seed),
        hardware=_hardware(rng),
        models=_models(rng),
        engine=EngineModel(efficiency_sigma=rng.choice((0.0, 0.15, 0.4)), prefix_reuse=rng.random() < 0.7),
        workload=_workload(rng),
        lookups=Lookups(rate_per_s=rng.choice((0.0, 0.0, 0.5))),
        node=_settings(rng, rng_stream(seed, "fuzz-homes")),
        churn=_churn(rng, until_s),
        attacks=_attacks(rng, until_s),
        measure=Measure(sample_s=5.0, invariants_every_s=rng.choice((3.0, 5.0, 7.0)), liveness_s=LIVENESS_S),
    )


def _topology(rng: Random, nodes: int) -> Topology:
    return Topology(
        nodes=nodes,
        seeds=rng.randint(1, max(1, min(5, nodes // 3))),
        latency=rng.choice(("planetlab490", "seattle99", "regions8", "uniform")),
        latency_s=rng.choice((0.001, 0.025, 0.2)),
        jitter=rng.choice((0.0, 0.1, 0.5)),
        loss=rng.choice((0.0, 0.0, 0.02, 0.1)),
        drop=rng.choice((0.0, 0.0, 0.0, 0.02)),
        join_s=rng.choice((0.0, 5.0, 30.0)),
        settled=rng.random() < 0.2,
        clock_skew_s=rng.choice((0.0, 0.5, MOST_SKEW_S)),
        per_group=rng.choice((1, 4, 16)),
    )


def _joinable(topology: Topology, seed: int) -> Topology:
    """Add bootstrap nodes until every node has one whose dial is usually answered in time.

    A daemon that reaches no node cannot join (seed 106: the only one was 25 s of round trips away).
    """
    one_way_s, limits = latencies(topology, seed).one_way_s, ConnectionSettings()

    def reaches(index: int, other: int) -> bool:
        trip = one_way_s(index, other) + one_way_s(other, index)
        in_time = HANDSHAKE_TRIPS * trip < limits.dial_s and (PROOF_TRIPS - ACCEPT_TRIPS) * trip < limits.pending_s
        return index == other or in_time

    seeds = topology.seeds
    while seeds < topology.nodes and not all(
        any(reaches(index, other) for other in range(seeds)) for index in range(topology.nodes)
    ):
        seeds += 1
    return msgspec.structs.replace(topology, seeds=seeds)


def _hardware(rng: Random) -> tuple[Hardware, ...]:
    gpus = rng.sample(_GPUS, rng.randint(1, 3))
    return tuple(Hardware(gpu=gpu, share=rng.uniform(0.1, 1.0), slots=rng.choice((1, 4, 16))) for gpu in gpus)


def _models(rng: Random) -> Models:
    return Models(
        catalogue=_CATALOGUE[: rng.randint(1, len(_CATALOGUE))],
        zipf=rng.choice((0.0, 0.9, 1.5)),
        warm=rng.choice((1, 1, 2)),
        on_disk=rng.choice((0, 1, 2)),
        without_engine=rng.choice((0.0, 0.3, 0.7)),
        shift_at_s=rng.choice((0.0, 100.0)),
    )


def _workload(rng: Random) -> Workload:
    return Workload(
        kind=rng.choice(("poisson", "bursty", "diurnal", "flash", "sessions")),
        rate_per_s=rng.choice((0.1, 0.3, 0.6)),
        prompt=Lengths(median=rng.choice((50.0, 500.0, 3000.0)), most=16384),
        output=Lengths(median=rng.choice((20.0, 200.0)), sigma=0.9, most=2048),
        cv=rng.choice((2.0, 6.0)),
        flash_factor=rng.choice((3.0, 10.0)),
        streamed=rng.choice((1.0, 0.5)),
        entries=rng.choice((1.0, 0.2)),
        patience_s=rng.choice((0.0, 0.0, 10.0)),
    )


def _settings(rng: Random, homes: Random) -> NodeSettings:
    """The default profile, some of it other than anybody would set it."""
    base = PROFILES[rng.choice(("wan", "wan", "wan", "lan"))]
    replace = msgspec.structs.replace
    gossip = replace(
        base.gossip,
        tick_s=rng.choice((base.gossip.tick_s, 1.0, 2.0)),
        digest_s=rng.choice((10.0, 30.0)),
        budget_bytes_s=rng.choice((4096, 8192, 65536)),
        view_size=rng.choice((4096, 4096, 64)),
    )
    neighbours = replace(base.neighbours, target=rng.choice((4, 6, 8)), rotate_s=rng.choice((60.0, 600.0)))
    cascade = replace(base.cascade, attempts=rng.choice((1, 3)), asked=rng.choice((3, 8)))
    admission = replace(base.admission, queue=rng.choice((1, 64)), per_peer=rng.choice((2, 64)))
    dht = replace(base.dht, k=homes.choice(HOMES))
    return replace(base, gossip=gossip, neighbours=neighbours, cascade=cascade, admission=admission, dht=dht)


def _churn(rng: Random, until_s: float) -> Churn:
    return Churn(
        model=rng.choice(("none", "exponential", "weibull", "bimodal")),
        mean_session_s=rng.choice((60.0, 300.0)),
        mean_off_s=rng.choice((5.0, 60.0)),
        crash_share=rng.choice((0.0, 0.7, 1.0)),
        amnesia=rng.choice((0.0, 0.5)),
        spare_seeds=rng.random() < 0.3,
        newcomers_per_s=rng.choice((0.0, 0.0, 0.02)),
        crowd_factor=rng.choice((0.0, 0.0, 0.0, 0.2)),
        crowd_at_s=min(LATER_S, until_s / 2),
    )


def _attacks(rng: Random, until_s: float) -> tuple[Attack, ...]:
    if rng.random() >= BAD_RUNS or not ATTACKERS:
        return ()
    kinds = rng.sample(sorted(ATTACKERS), rng.randint(1, min(3, len(ATTACKERS))))
    share = rng.uniform(0.03, BAD_SHARE) / len(kinds)
    return tuple(
        Attack(
            kind=kind,
            share=share,
            from_s=rng.choice((0.0, min(LATER_S, until_s / 2))),
            until_s=until_s,
            identities=3,
            amount=AMOUNTS.get(kind, 0.0),
        )
        for kind in kinds
    )


# --- many seeds -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Fuzzed:
    """The result: every run, and the runs that broke an invariant or crashed."""

    made: list[Made] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The runs that did not go well, as they are in results."""
        return [one.run for one in self.made if one.run["breach"] or one.run["error"]]

    @property
    def whole(self) -> int:
        """How many came to their end, a breach or a crash being one."""
        return sum(not one.run["partial"] for one in self.made)

    @property
    def cpu_s(self) -> float:
        """Processor seconds that all runs took."""
        return float(sum(one.timing.get("cpu_s") or 0.0 for one in self.made))


def command(seed: int, nodes: int, duration_s: float) -> list[str]:
    """The words that repeat one seed."""
    text = f"{duration_s / 60:g}m" if duration_s % 60 == 0 else f"{duration_s:g}s"
    options = ["--from-seed", str(seed), "--seeds", "1", "--nodes", str(nodes), "--time", text]
    return ["p2pnode", "sim", "fuzz", *options]


def planned(seeds: Sequence[int], nodes: int = NODES, duration_s: float = TIME_S) -> list[Planned]:
    """The runs of these seeds."""
    return [
        Planned(scenario_of(seed, nodes, duration_s), {}, seed, tuple(command(seed, nodes, duration_s)))
        for seed in seeds
    ]


def regressions(path: Path = REGRESSIONS) -> list[Planned]:
    """The seeds that failed once, the oldest first."""
    if not path.is_file():
        return []
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return [run for one in table.get("seed", []) for run in planned([one["seed"]], one["nodes"], one["time_s"])]


def failed_first(plan: Sequence[Planned], path: Path = REGRESSIONS) -> list[Planned]:
    """The runs of a plan after those that failed once, each only once."""
    old = regressions(path)
    again = {repeat(each) for each in old}
    return [*old, *(each for each in plan if repeat(each) not in again)]


def run(plan: Sequence[Planned], jobs: int, audience: Audience) -> Fuzzed:
    """Make the runs, so many at once; 0: one after the other in this process."""
    runs = RunPool(plan, jobs, audience)
    fuzzed = Fuzzed(runs.all(), runs.interrupted)
    for index, one in runs.made.items():
        for what in (one.run["breach"], one.run["error"]):
            if what:
                what["repeat"] = repeat(plan[index])
    return fuzzed


def repeat(each: Planned) -> str:
    """The command that makes a run again, the whole of it."""
    return shlex.join(each.repeat)


def remember(fuzzed: Fuzzed, plan: Sequence[Planned], path: Path = REGRESSIONS) -> int:
    """Write down the seeds that failed and are not there yet; how many these were."""
    known = {(each.seed, len_of(each), each.scenario.duration_s) for each in regressions(path)}
    lines = []
    for failed in fuzzed.failures:
        what = failed["breach"] or failed["error"]
        each = next(one for one in plan if repeat(one) == what["repeat"])
        if (each.seed, len_of(each), each.scenario.duration_s) in known:
            continue
        note = f"{what.get('invariant', 'crash')}: {what['what']}".replace("\\", "/").replace('"', "'")
        lines.append(
            f"\n[[seed]]\nseed = {each.seed}\nnodes = {len_of(each)}\ntime_s = {each.scenario.duration_s}\n"
            f'note = "{note}"\n'
        )
    if lines:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
    return len(lines)


def len_of(each: Planned) -> int:
    """Nodes of a run."""
    return each.scenario.topology.nodes
