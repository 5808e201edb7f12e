"""What was observed of a peer, as a sentence for people: "41 of 43 complete, 1.3 × slower than it claims".

One function says it for all that show it.  Not here: the figures (``experience``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.membership.peer_record import PeerRecord
from protocol.reputation.peer_history import PeerHistory

#: A peer whose speed differs by less than this factor from its claim is as fast as it claims (guess: a tenth is noise).
_AS_CLAIMED: Final = 1.1


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What one observer has seen of a peer.

    ``completed`` and ``failed`` are jobs of this node that ended well, and that ended by the peer's fault.  ``slower``
    is the time that jobs took as a multiple of the one that follows from its claims, None without evidence.
    ``breaker`` is ``closed``, ``open`` or ``half-open``; ``barred_s`` are the seconds until it lets a job through,
    after ``failures`` within a minute.  ``misses`` are dials in a row that failed.  ``absurd`` is a claim that cannot
    be true, in words.
    """

    completed: int = 0
    failed: int = 0
    slower: float | None = None
    breaker: str = "closed"
    barred_s: float = 0.0
    failures: int = 0
    misses: int = 0
    absurd: str = ""


def seen_of(record: PeerRecord, history: PeerHistory | None, now: float) -> Seen:
    """What is known of a peer in the view, with its history or without one."""
    if history is None:
        return Seen(misses=record.misses, absurd=record.absurd)
    breaker = history.breaker
    return Seen(
        completed=history.completed,
        failed=history.failed,
        slower=history.factors.slower(now),
        breaker=breaker.state(now),
        barred_s=max(0.0, breaker.barred_until - now) if not breaker.is_closed else 0.0,
        failures=breaker.failures,
        misses=record.misses,
        absurd=record.absurd,
    )


def in_words(seen: Seen) -> str:
    """The sentence, without a full stop."""
    jobs = seen.completed + seen.failed
    said = [f"{seen.completed} of {jobs} complete" if jobs else "no evidence yet"]
    if seen.slower is not None and (pace := _pace(seen.slower)):
        said.append(pace)
    if seen.breaker == "open":
        after = f" after {seen.failures} failures" if seen.failures else ""
        said.append(f"breaker open for {_seconds(seen.barred_s)} more{after}")
    elif seen.breaker == "half-open":
        said.append("breaker half-open: one job at a time may try")
    if seen.misses:
        said.append("the last dial failed" if seen.misses == 1 else f"the last {seen.misses} dials failed")
    if seen.absurd:
        said.append(f"{seen.absurd}: not used")
    return ", ".join(said)


def _pace(slower: float) -> str:
    if slower >= _AS_CLAIMED:
        return f"{_factor(slower)} × slower than it claims"
    if slower <= 1 / _AS_CLAIMED:
        return f"{_factor(1 / slower)} × faster than it claims"
    return ""


def _factor(factor: float) -> str:
    return f"{factor:.1f}" if factor < 10 else f"{factor:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"
