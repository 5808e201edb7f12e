"""What entries get from the network once they have experience, and how they are linked: figures of a run.

An entry is experienced from its ``measure.experience_jobs``-th job on.  Jobs that nodes send only to test a peer are
not jobs of callers and are in none of these figures.

Not here: the figures of all jobs (``metrics``), what attackers gain (``attackers.attack_metrics``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from simulations.measure.metrics import Observed, quantiles, rounded
from simulations.scenario import Scenario
from simulations.sim.job_log import JobNote
from simulations.sim.jobs import STAGES
from simulations.sim.node import SimNode

#: How a job ends whose entry was lost with its caller: that says nothing of the choice of workers.
_ENTRY_LOST: Final = frozenset({"entry_crashed", "no_entry", "cancelled"})
_DIAL: Final = STAGES.index("dial")


def metrics(run: Observed) -> dict[str, Any]:
    """All of them; what was not measured is absent."""
    notes = run.job_log.measured
    found = answered(notes) | experienced(notes, run.scenario, run.peers)
    links = quantiles(float(count) for count in run.watch.links)
    return found if links is None else found | {"links": links}


def answered(notes: Sequence[JobNote]) -> dict[str, Any]:
    """Shares of the jobs that got a first piece, and of those whose worker had to be dialled first."""
    asked = [note for note in notes if note.end not in _ENTRY_LOST]
    served = [note for note in asked if note.committed_at is not None and note.stages]
    found = {}
    if asked:
        found["first_piece_share"] = rounded(sum(note.committed_at is not None for note in asked) / len(asked))
    if served:
        found["fresh_link_share"] = rounded(sum(note.stages[_DIAL] > 0 for note in served) / len(served))
    return found


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
