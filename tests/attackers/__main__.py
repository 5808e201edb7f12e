"""``python -m tests.attackers --kind hang-up --requests 60 --at-once 1``: what the callers of a gateway notice.

Four honest workers (mock engines: RTX 4090, 3090, 4090, 3090) and one gateway for each line, a process each, on
loopback.  The first line is the run without an attacker.  The kinds:

  a kind of ``lies``   one liar with --claims: boundless (10^12 TFLOPS and GB/s, 2^20 places), bold (16 cards as fast as
                       the fastest known one), modest (an RTX 4090, which is true)
  paper                --identities keys that one process advertises over one link, all with a closed port
  crowded-port         the same, with the port of a victim that counts the connections of the gateway
  gone                 both peers of a model are killed: the answers of the next minute
  unknown              models that no peer offers
  all                  every lie

Columns: callers served by an honest peer, of all and from the 20th request on; of the first 20 callers those who
noticed something (an error, text of the liar, or an answer later than 1.3 times the slowest of the run without it);
jobs at the liar in percent of the requests, and as a multiple of those at an equal honest worker; seconds of whole
answers, and the 95th percentile over that of the run without it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from p2pnode.cli.processes import Fleet
from tests.attackers import paper
from tests.attackers.lies import LIES
from tests.attackers.nodes import CLAIMS, model_of
from tests.attackers.ports import Victim, closed_port
from tests.attackers.victims import Figures, Heard, Network, ask, ask_many, figures, knows, percentile

NONE: Final = "none"
OTHERS: Final = ("paper", "crowded-port", "gone", "unknown")
#: Seconds after which a gateway has the statements of all identities, for 1,000 of them.
INJECTION_S: Final = 10.0
#: Longest wait for a 404.
GONE_S: Final = 120.0


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.attackers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append", choices=[*LIES, *OTHERS, "all"], required=True)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--whole", action="store_true", help="answers that are not streamed")
    parser.add_argument("--claims", default="boundless", choices=CLAIMS, help="of the attacker")
    parser.add_argument("--identities", type=int, default=400)
    parser.add_argument("--profile", default="wan", choices=["wan", "lan", "test"])
    parser.add_argument("--json", action="store_true", help="one object for each line")
    return parser.parse_args(given)


class Bench:
    """One network, and a gateway for each run."""

    def __init__(self, given: argparse.Namespace, network: Network) -> None:
        self._given = given
        self._network = network
        self._slowest, self._p95 = math.inf, 0.0
        self._gateways = 0

    def run(self, kind: str) -> dict[str, Any]:
        """Measure one kind."""
        if kind == "gone":
            return self._gone()
        if kind == "unknown":
            return self._unknown()
        if kind in ("paper", "crowded-port"):
            return self._paper(kind)
        liars = self._network.run(kind, {kind: f"{self._given.claims}:{kind}"}) if kind != NONE else {}
        api = self._network.gateway(f"gateway-{kind}")
        knows(api, [*self._network.peers, *(liar.peer_id for liar in liars.values())])
        heard = self._ask(api, kind)
        found = figures(self._network, heard, sum(liar.jobs for liar in liars.values()), self._slowest)
        if kind == NONE:
            self._slowest, self._p95 = max(one.seconds for one in heard), found.p95
        for name in (kind, f"gateway-{kind}"):
            self._end(name)
        return self._row(kind, found)

    def _ask(self, api: Any, kind: str) -> list[Heard]:
        given = self._given
        return ask_many(
            self._network, api, model_of(kind), given.requests, given.at_once, given.tokens, stream=not given.whole
        )

    def _row(self, kind: str, found: Figures) -> dict[str, Any]:
        ratio = found.p95_learnt / self._p95 if found.p95_learnt and self._p95 else None
        return {"kind": kind, "at_once": self._given.at_once, **asdict(found), "p95_ratio": ratio}

    def _end(self, name: str) -> None:
        child = self._network.fleet.children.get(name)
        if child is not None:
            child.stop()
            self._network.fleet.forget(name)

    def _paper(self, kind: str) -> dict[str, Any]:
        gateway = f"gateway-{kind}"
        api = self._network.gateway(gateway)
        knows(api, self._network.peers)
        processes = {name: child.process.pid for name, child in self._network.fleet.children.items()}
        with closed_port() as closed, Victim(processes) as victim:
            port = victim.port if kind == "crowded-port" else closed
            flags = ["--engine", "none", "--profile", "wan", "--identities", str(self._given.identities)]
            flags += ["--port", str(port), "--offers", model_of(kind), "--claims", self._given.claims]
            target = self._network.fleet.children[gateway].address
            self._network.fleet.node(kind, "--bootstrap", target, *flags, program=paper.PROGRAM).wait_ready()
            began = time.monotonic()
            time.sleep(2.0 + INJECTION_S * self._given.identities / 1000)
            heard = self._ask(api, kind)
            seconds = time.monotonic() - began
            row = self._row(kind, figures(self._network, heard, 0, self._slowest))
        for name in (kind, gateway):
            self._end(name)
        return row | {"identities": self._given.identities, "dials": dict(victim.dials), "seconds": round(seconds)}

    def _gone(self) -> dict[str, Any]:
        names, model = ("gone-1", "gone-2"), model_of("gone-away")
        flags = ("--engine", "mock", "--model", model, "--profile", self._given.profile)
        for name in names:
            self._network.fleet.node(name, "--bootstrap", self._network.seed, *flags)
        for name in names:
            self._network.fleet.children[name].wait_ready()
        api = self._network.gateway("gateway-gone")
        knows(api, [self._network.fleet.children[name].peer_id for name in names])
        before = ask_many(self._network, api, model, 4, 1, 8)
        time.sleep(3.0)  # so that the DHT has their statements
        for name in names:
            self._network.fleet.children[name].kill()
            self._network.fleet.forget(name)
        began = time.monotonic()
        #: Seconds after the kill, and the status that is answered from then on.
        answers: list[float] = []
        while time.monotonic() < began + GONE_S:
            one = ask(self._network, api, model, 8)
            if answers[-1:] != [one.status]:
                answers += [round(time.monotonic() - began, 1), one.status]
            if one.status == 404:
                break
            time.sleep(1.0)
        heard = [ask(self._network, api, f"never-heard-of-{number}", 8) for number in range(3)]
        self._end("gateway-gone")
        return {
            "kind": "gone",
            "before": [one.status for one in before],
            "answers": answers,
            "unknown_s": [round(one.seconds, 2) for one in heard],
        }

    def _unknown(self) -> dict[str, Any]:
        api = self._network.gateway("gateway-unknown")
        knows(api, self._network.peers)
        time.sleep(6.0)  # a node that is younger says that it is starting
        heard = [ask(self._network, api, f"never-heard-of-{number}", 8) for number in range(5)]
        self._end("gateway-unknown")
        seconds = [one.seconds for one in heard]
        return {
            "kind": "unknown",
            "statuses": [one.status for one in heard],
            "p50": percentile(seconds, 0.5),
            "slowest": max(seconds),
        }


def rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    kinds = [kind for named in given.kind for kind in (LIES if named == "all" else (named,))]
    measured = [NONE, *kinds]
    with Fleet() as fleet:
        network = Network(fleet, [model_of(kind) for kind in measured], given.profile)
        network.start()
        bench = Bench(given, network)
        for kind in measured:
            yield bench.run(kind)


def _shown(row: dict[str, Any]) -> str:
    if "honest" not in row:
        return f"{row.pop('kind'):<16} {row}"
    ratio = f"{row['p95_ratio']:.2f}" if row["p95_ratio"] else "-"
    seconds = " ".join(f"{row[name]:>7.2f}" for name in ("p50", "p95", "p50_learnt", "p95_learnt"))
    shares = f"{row['honest']:>7.1%} {row['honest_learnt']:>7.1%} {row['noticed']:>4}/20 {row['share']:>7.1%}"
    shares += f" {row['times_equal']:>6.2f}"
    notes = [str(row[name]) for name in ("errors", "dials", "seconds") if row.get(name)]
    return f"{row['kind']:<16} {shares} {seconds} {ratio:>6}  {' '.join(notes)}"


def main() -> None:
    given = arguments()
    head = ("kind", "honest", "20th on", "noticed", "liar", "equals", "p50", "p95", "p50 20+", "p95 20+", "ratio")
    if not given.json:
        print("{:<16} {:>7} {:>7} {:>7} {:>7} {:>6} {:>7} {:>7} {:>7} {:>7} {:>6}".format(*head), flush=True)
    for row in rows(given):
        print(json.dumps(row) if given.json else _shown(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
