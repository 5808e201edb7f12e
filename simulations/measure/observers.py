"""What entries get from the network once they have experience, and how they are linked: figures of a run.

An entry is experienced from its ``measure.experience_jobs``-th job on.  Jobs that nodes send only to test a peer are
not jobs of callers and are in none of these figures.

Not here: the figures of all jobs (``metrics``), what attackers gain (``attackers.attack_metrics``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from protocol.reputation.evidence import LAWS, Dimension, Evidence
from protocol.reputation.newcomers import FIRST_PRIOR
from protocol.reputation.peer_history import PeerHistory
from simulations.measure.metrics import Observed, quantiles, rounded
from simulations.scenario import Scenario
from simulations.sim.job_log import JobNote
from simulations.sim.node import SimNode

#: How a job ends whose entry was lost with its caller: that says nothing of the choice of workers.
_ENTRY_LOST: Final = frozenset({"entry_crashed", "no_entry", "cancelled"})
#: A peer that completes fewer of its jobs is shut out: a failed one costs more than it is worth (guess).
LEAST_CHANCE: Final = 0.5


def shut_out(run: Observed) -> dict[str, Any]:
    """The share of honest workers that experienced entries shut out now, of all pairs of such an entry and a worker.

    A worker is shut out while its breaker is open, and if its chance to complete a job is estimated below a half.
    """
    now = run.loop.now
    workers = [peer for peer in run.peers if peer.honest and peer.up and peer.worker is not None]
    pairs = out = 0
    for peer in run.peers:
        experience = peer.entry.experience if peer.honest and peer.up and peer.entry is not None else None
        if experience is None or run.job_log.at_entry[peer.index] < max(1, run.scenario.measure.experience_jobs):
            continue
        others = [other for other in workers if other is not peer]
        pairs += len(others)
        out += sum(_is_shut_out(experience.histories.get(other.peer_id), now) for other in others)
    return {"experienced_shut_out_share": rounded(out / pairs)} if pairs else {}


def _is_shut_out(history: PeerHistory | None, now: float) -> bool:
    if history is None:
        return False
    known = history.evidence.get(Dimension.COMPLETE)
    chance = 1.0
    if known is not None:  # with the prior of a newcomer, as the ranking estimates it
        chance = Evidence(known.good, known.bad, known.at).chance(LAWS[Dimension.COMPLETE], now, FIRST_PRIOR)
    return history.breaker.barred_until > now or chance < LEAST_CHANCE


def metrics(run: Observed) -> dict[str, Any]:
    """All of them; what was not measured is absent."""
    notes = run.job_log.measured
    found = answered(notes) | experienced(notes, run.scenario, run.peers)
    links = quantiles(float(count) for count in run.watch.links)
    return found if links is None else found | {"links": links}


def answered(notes: Sequence[JobNote]) -> dict[str, Any]:
    """The share of the jobs that got a first piece."""
    asked = [note for note in notes if note.end not in _ENTRY_LOST]
    share = sum(note.committed_at is not None for note in asked) / max(1, len(asked))
    return {"first_piece_share": rounded(share)} if asked else {}


def experienced(notes: Sequence[JobNote], scenario: Scenario, peers: Sequence[SimNode]) -> dict[str, Any]:
    """Success, and who is asked first, over the jobs of experienced entries."""
    known = [note for note in notes if note.earlier >= scenario.measure.experience_jobs]
    if not known:
        return {}
    first = [peers[note.asked[0]] for note in known if note.asked]
    asked = [peers[index] for note in known for index in note.asked]
    found: dict[str, Any] = {
        "experienced_jobs": len(known),
        "experienced_success_rate": rounded(sum(note.end == "completed" for note in known) / len(known)),
    }
    if first:
        found["experienced_bad_first_share"] = rounded(sum(not peer.honest for peer in first) / len(first))
        found["experienced_bad_share"] = rounded(sum(not peer.honest for peer in asked) / len(asked))
        found |= _against_equal(first, scenario, peers)
    return found


def _against_equal(first: Sequence[SimNode], scenario: Scenario, peers: Sequence[SimNode]) -> dict[str, Any]:
    """The part of bad peers, and of honest newcomers, as a multiple of the part that they had if all had the same.

    Bad peers are held against all workers, newcomers against the honest ones.  It is meant for equal machines.
    """
    honest = [peer for peer in peers if peer.worker is not None and peer.up and peer.honest]
    bad = [peer for peer in peers if peer.worker is not None and not peer.honest]
    new = [peer for peer in honest if peer.index >= scenario.topology.nodes]
    found = {}
    if bad:
        part = sum(not peer.honest for peer in first) / len(first)
        found["experienced_bad_over_equal"] = rounded(part * (len(honest) + len(bad)) / len(bad))
    if new:
        part = sum(peer in new for peer in first) / len(first)
        found["experienced_newcomer_over_equal"] = rounded(part * len(honest) / len(new))
    return found
