"""Small worlds for reputation: one observer, peers of several kinds, and jobs one after the other.

They rank policies and do not predict rates in the field: faults are independent, a job has one size, and no peer is
ever busy.  ``python -m tests.protocol.reputation.worlds`` prints the table of ``p2pnode/DESIGN.md``.

Kinds of peers::

    honest    as fast as it claims, times exp(N(0, 0.25))
    inflator  claims 25 times its speed
    flaky     fails 60 % of its jobs, after 3 s
    drip      answers 30 times slower than it claims
    traitor   does 300 jobs well, then fails every one after 5 s
    sybil     fails every job after 3 s, and comes back under another name in one of four networks after two failures
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.ids import PeerId
from protocol.reputation.estimator import Estimator
from protocol.reputation.experience import Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import BLAMED, Outcome
from protocol.routing.policies import DEFAULT
from protocol.routing.ranking import Candidate, JobQuery, rank
from tests.protocol.sample_peers import MODEL, advert, card, idle, new_view, offer, put

QUERY = JobQuery(MODEL, prompt_tokens=500, max_tokens=200)
#: The card that all peers have: dense TFLOPS and GB/s.
TFLOPS, GB_S = 60.0, 300.0
#: Seconds until a failure is noticed, by kind.
NOTICED_S = {"flaky": 3.0, "traitor": 5.0, "sybil": 3.0}
TRAITOR_JOBS = 300
SYBIL_NETWORKS = 4


@dataclass
class Peer:
    """One peer: its kind, how many times slower it is than the common card, and the jobs that it got."""

    kind: str
    slower: float
    jobs: int = 0
    failed: int = 0


@dataclass
class Tally:
    """What came of the jobs."""

    first: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    first_good: int = 0
    unserved: int = 0


class World:
    """A view with peers, and an experience; the clock moves ``pause_s`` with each job."""

    def __init__(self, seed: int, estimator: Estimator = "mean", pause_s: float = 2.0) -> None:
        self.rng = random.Random(seed)
        self.view = new_view()
        self.experience = Experience(self.view, estimator=estimator)
        self.now = 0.0
        self.peers: dict[PeerId, Peer] = {}
        self.tally = Tally()
        self._pause_s = pause_s
        self._number = 0
        self._true: tuple[float, float] = (0.0, 0.0)

    def add(self, kind: str, claim: float = 1.0, network: str = "", spread: float = 0.25) -> PeerId:
        """A peer that claims ``claim`` times the common card; ``spread`` is that of the hidden efficiency."""
        self._number += 1
        network = network or f"11.{self._number // 256}.{self._number % 256}"
        said = advert(offer(), gpu=card(24, TFLOPS * claim, GB_S * claim), addrs=(f"/ip4/{network}.1/tcp/1",))
        who = put(self.view, self._number, said, idle(slots=64), until=math.inf)
        self.view.observe_rtt(who, 0.05)
        slower = math.exp(self.rng.gauss(0, spread)) * (30.0 if kind == "drip" else 1.0)
        self.peers[who] = Peer(kind, slower)
        return who

    def run(self, jobs: int) -> Tally:
        """So many jobs; what came of these."""
        self.tally = Tally()
        for _ in range(jobs):
            self.now += self._pause_s
            self._job()
        return self.tally

    def _job(self) -> None:
        ranking = rank(self.view, QUERY, DEFAULT, self.rng, self.now, experience=self.experience)
        spent = 0.0
        for place, candidate in enumerate(ranking.candidates):
            one = self.peers[candidate.peer]
            if not place:
                self.tally.first[one.kind] += 1
            one.jobs += 1
            seconds, good = self._attempt(candidate, one)
            spent += seconds
            if good:
                self.tally.first_good += not place
                self.tally.seconds.append(spent)
                return
        self.tally.unserved += 1

    def _attempt(self, candidate: Candidate, one: Peer) -> tuple[float, bool]:
        fails = one.kind == "sybil" or (one.kind == "flaky" and self.rng.random() < 0.6)
        fails = fails or (one.kind == "traitor" and one.jobs > TRAITOR_JOBS)
        forecast = candidate.forecast
        assert forecast is not None
        self.experience.attempted(candidate.peer, self.now)
        if fails:
            lost_s = NOTICED_S[one.kind]
            outcome = Outcome.SILENT
            seen = Observation(candidate.peer, MODEL, outcome, outcome in BLAMED, forecast=forecast, lost_s=lost_s)
            self.experience.observed(seen, self.now)
            one.failed += 1
            if one.kind == "sybil" and one.failed == 2:
                self.view.remove(candidate.peer)
                self.add("sybil", claim=self.rng.uniform(1, 25), network=f"12.0.{self.rng.randrange(SYBIL_NETWORKS)}")
            return lost_s, False
        prompt_s, token_s = self._truth()
        first_s = forecast.base_wait_s + prompt_s * one.slower * math.exp(self.rng.gauss(0, 0.1))
        token_s *= one.slower * math.exp(self.rng.gauss(0, 0.1))
        times = (first_s, token_s, QUERY.max_tokens)
        seen = Observation(candidate.peer, MODEL, Outcome.COMPLETED, False, *times, forecast=forecast)
        self.experience.observed(seen, self.now)
        return first_s + token_s * QUERY.max_tokens, True

    def _truth(self) -> tuple[float, float]:
        """Seconds of the prompt and of a token on the common card."""
        if not self._true[0]:
            view = new_view()
            put(view, 1, advert(offer(), gpu=card(24, TFLOPS, GB_S)), idle(slots=64))
            forecast = rank(view, QUERY, DEFAULT, random.Random(0), 1.0).candidates[0].forecast
            assert forecast is not None
            self._true = forecast.base_prompt_s, forecast.base_itl_s
        return self._true

    def share(self, who: Iterable[PeerId], jobs: int) -> float:
        """The share of the next jobs that these peers get, attempts after a failure not counted."""
        before = sum(self.peers[each].jobs for each in who)
        self.run(jobs)
        return (sum(self.peers[each].jobs for each in who) - before) / jobs


def mixed(seed: int, estimator: Estimator) -> World:
    """The world of the trust study, without wrong text: 20 honest peers and 19 others."""
    world = World(seed, estimator)
    for kind, count, claim in (
        ("honest", 20, 1.0),
        ("inflator", 3, 25.0),
        ("flaky", 3, 1.0),
        ("drip", 2, 1.0),
        ("traitor", 1, 1.2),
    ):
        for _ in range(count):
            world.add(kind, claim)
    for number in range(10):
        world.add("sybil", world.rng.uniform(1, 25), f"12.0.{number % SYBIL_NETWORKS}")
    return world


def row(estimator: Estimator, seeds: int = 5, jobs: int = 3000) -> str:
    """A line of the table: the means over the seeds, and the worst of the success at the first attempt."""
    tallies = [mixed(seed, estimator).run(jobs) for seed in range(seeds)]
    good = [tally.first_good / jobs for tally in tallies]
    seconds = statistics.fmean(statistics.fmean(tally.seconds) for tally in tallies)
    tail = statistics.fmean(sorted(tally.seconds)[int(0.99 * len(tally.seconds))] for tally in tallies)
    kinds = ("sybil", "flaky", "drip", "traitor", "inflator")
    shares = {kind: statistics.fmean(tally.first[kind] / jobs for tally in tallies) for kind in kinds}
    unserved = sum(tally.unserved for tally in tallies)
    told = " | ".join(f"{100 * shares[kind]:.2f}" for kind in kinds)
    return (
        f"| {estimator} | {100 * statistics.fmean(good):.2f} ({100 * min(good):.2f}) | {seconds:.2f} | {tail:.1f} "
        f"| {told} | {unserved} |"
    )


def main() -> None:
    """Print the table."""
    print("| estimator | good at once, % (worst) | mean s | p99 s | sybil % | flaky % | drip % | traitor % ", end="")
    print("| inflator % | unserved |\n| " + " | ".join(["---"] * 10) + " |")
    for estimator in ("mean", "quartile", "draw"):
        print(row(estimator))


if __name__ == "__main__":
    main()
