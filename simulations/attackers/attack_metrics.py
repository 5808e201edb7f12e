"""Measures the success of attackers: captured jobs, wrong answers, places in views and among neighbours, bans.

It observes the network from outside, at the beginning and at the end of the attack.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from protocol.errors import RemoteProtocolError
from protocol.statements.envelope import Envelope, parse
from simulations.measure.metrics import quantiles, rounded
from simulations.rng_streams import rng_stream
from simulations.sim.cluster import Cluster
from simulations.sim.node import SimNode

#: The attackers count as isolated when they get fewer than this share of the attempts, for good (the goal of E8).
ISOLATED: Final = 0.01
#: Attempts that have to follow before that can be said, and width of the steps in which it is looked for, seconds.
_LEAST_ATTEMPTS: Final = 100
_STEP_S: Final = 5.0
#: Views that are searched for forged statements.
_SEARCHED: Final = 10
#: Just before the end of an attack, seconds.
_BEFORE: Final = 1e-3


class Damage:
    """See the module's docstring."""

    def __init__(self, cluster: Cluster, windows: list[tuple[float, float]]) -> None:
        self.cluster = cluster
        self.from_s = min(begin for begin, _ in windows)
        self.until_s = min(cluster.scenario.duration_s, max(end for _, end in windows))
        self._before: dict[int, tuple[int, int, float]] = {}
        self._rates: list[tuple[float, float, float]] = []
        self._looks: dict[str, float] = {}

    def prepare(self) -> None:
        """Schedule the looks."""
        loop, begins = self.cluster.loop, max(self.from_s, self.cluster.scenario.warmup_s)
        loop.at(max(0.0, min(begins, self.until_s - 2 * _BEFORE)), self._begin)
        loop.at(max(0.0, self.until_s - _BEFORE), self._look)

    def _honest(self) -> list[SimNode]:
        return [peer for peer in self.cluster.peers if peer.honest and peer.up]

    def _begin(self) -> None:
        self._began = self.cluster.loop.now
        self._before = {peer.index: (peer.bytes_up, peer.uploads.gossip_bytes, peer.cpu_s) for peer in self._honest()}

    def _look(self) -> None:
        honest, span = self._honest(), self.cluster.loop.now - self._began
        for peer in honest:
            before = self._before.get(peer.index)
            if before is not None and span > 0:
                after = (peer.bytes_up, peer.uploads.gossip_bytes, peer.cpu_s)
                rates = tuple((new - old) / span for new, old in zip(after, before, strict=True))
                self._rates.append(rates)  # type: ignore[arg-type]
        self._look_at_views(honest)
        self._look_at_neighbours(honest)

    def _look_at_views(self, honest: list[SimNode]) -> None:
        by_peer = self.cluster.by_peer
        records = bad = 0
        shares: list[float] = []
        for peer in honest:
            others = peer.node.view.records()[1:]
            among = sum((known := by_peer.get(record.peer)) is None or not known.honest for record in others)
            records, bad = records + len(others), bad + among
            shares.append(among / len(others) if others else 0.0)
        self._looks["bad_in_views"] = bad / records if records else 0.0
        self._looks["bad_in_views_max"] = max(shares, default=0.0)
        rng = rng_stream(self.cluster.seed, "damage")
        found: dict[bytes, Envelope] = {}
        for peer in rng.sample(honest, min(_SEARCHED, len(honest))):
            for record in peer.node.view.records()[1:]:
                for envelope in (record.advert_env, record.load_env):
                    if envelope is not None:
                        found[envelope.wire] = envelope
        self._looks["forged_in_views"] = sum(not _holds(envelope) for envelope in found.values())

    def _look_at_neighbours(self, honest: list[SimNode]) -> None:
        by_peer = self.cluster.by_peer
        shares = []
        for peer in honest:
            standing = peer.node.overlay.standing()
            if standing:
                shares.append(sum(not by_peer[other].honest for other in standing) / len(standing))
        self._looks["bad_neighbours"] = float(np.mean(shares)) if shares else 0.0
        self._looks["eclipsed_share"] = sum(share == 1.0 for share in shares) / len(shares) if shares else 0.0

    # --- the results -------------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Any]:
        """Everything that only a run with attackers has."""
        job_log, peers = self.cluster.job_log, self.cluster.peers
        found: dict[str, Any] = {name: rounded(value) for name, value in self._looks.items()}
        found |= self._jobs()
        honest = sum(peer.honest for peer in peers)
        banned = [peers[index] for index in job_log.bans]
        found["false_bans"] = sum(peer.honest for peer in banned)
        found["false_ban_share"] = rounded(found["false_bans"] / max(1, honest))
        found["bans"] = sum(job_log.bans.values())
        found["bad_banned_share"] = rounded((len(banned) - found["false_bans"]) / max(1, len(peers) - honest))
        names = ("honest_bytes_up_per_s", "honest_gossip_bytes_per_s", "honest_cpu_share")
        for name, column in zip(names, zip(*self._rates, strict=True), strict=False):
            found[name] = quantiles(column)
        return found

    def _jobs(self) -> dict[str, Any]:
        job_log, peers = self.cluster.job_log, self.cluster.peers
        log = [(at, not peers[index].honest) for at, index in job_log.attempt_log if self.from_s <= at < self.until_s]
        notes = [note for note in job_log.measured if self.from_s <= note.asked_at < self.until_s]
        wrong = sum(note.wrong and note.end == "completed" for note in notes)
        found: dict[str, Any] = {"bad_answers": wrong, "bad_answer_share": rounded(wrong / max(1, len(notes)))}
        found["bad_peers"] = sum(not peer.honest for peer in peers)
        if log:
            found["bad_job_share"] = rounded(sum(bad for _, bad in log) / len(log))
            isolated = time_to_isolate_s(log, self.from_s)
            found["time_to_isolate_s"] = math.inf if isolated is None else rounded(isolated)
        return found


def time_to_isolate_s(log: list[tuple[float, bool]], from_s: float) -> float | None:
    """After how long the bad peers got hardly any attempts any more, to the end; None if that never came.

    ``log`` is when each attempt was made and whether it was at a bad peer.
    """
    if not log:
        return None
    at = from_s
    while at <= log[-1][0]:
        rest = [bad for when, bad in log if when >= at]
        if len(rest) < _LEAST_ATTEMPTS:
            return None
        if sum(rest) < ISOLATED * len(rest):
            return at - from_s
        at += _STEP_S
    return None


def _holds(envelope: Envelope) -> bool:
    """Whether the signature proves the author, without any cached verdict."""
    try:
        return parse(envelope.wire).check()
    except RemoteProtocolError:
        return False
