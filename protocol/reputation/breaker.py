"""A circuit breaker for one peer: after many failures within a short time it is left alone for a while.

It answers bursts, which evidence over hours is too slow for.  Not here: which outcomes count (``outcomes``), and that a
peer with an open breaker is asked after all others and so still where it is the last one (``routing.ranking``).

Theory of operation
-------------------
Failures are counted in a sliding window.  *Open*, the peer is asked last until a moment that lies further away each
time it opens again.  After it the breaker is *half-open*: one job at a time may try, and until its outcome is known the
peer is asked last.

========= ===================================== =========================================== =========
state     event                                 effect                                      next
========= ===================================== =========================================== =========
closed    ``failed``, up to ``MOST_FAILURES``   none                                        closed
          in ``WINDOW_S``
closed    ``failed``, one more                  barred for ``FIRST_S``                      open
open      ``asked``, ``failed``, ``worked``     none: the job began earlier, or there was   open
          before that moment                    no other peer
open      ``asked`` after it                    barred until the outcome, ``TRIAL_S`` at    half-open
                                                most
half-open ``worked``, ``GOOD_TRIALS`` in a row  its failures are forgotten                  closed
half-open ``worked``, ``released``              barred no more                              half-open
half-open ``failed``                            barred twice as long as last time           open
========= ===================================== =========================================== =========
"""

from __future__ import annotations

import math
from typing import Final

#: More failures than these within so many seconds open the breaker (routing study, section 2.6).
MOST_FAILURES: Final = 5
WINDOW_S: Final = 60.0
#: Seconds for which it is open first, and at most; it doubles each time (routing study).
FIRST_S: Final = 30.0
MOST_S: Final = 600.0
#: Jobs that have to go well in a row until it closes (routing study).
GOOD_TRIALS: Final = 2
#: Longest time for which a trial bars the peer, seconds: the longest job.
TRIAL_S: Final = 600.0


class Breaker:
    """See the module's docstring.  Times are monotonic seconds."""

    __slots__ = ("_failures", "_good", "_open_until", "_opened", "_trial_until")

    def __init__(self) -> None:
        self._failures: list[float] = []
        self._opened = 0  # times in a row
        self._open_until = self._trial_until = -math.inf
        self._good = 0

    @property
    def is_closed(self) -> bool:
        """Whether the peer is trusted like any other."""
        return not self._opened

    @property
    def failures(self) -> int:
        """The failures that opened it, or that may do so."""
        return len(self._failures)

    def state(self, now: float) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if not self._opened:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    @property
    def barred_until(self) -> float:
        """Until then the peer is asked last."""
        return max(self._open_until, self._trial_until)

    def asked(self, now: float) -> None:
        """A job goes to the peer."""
        if self._opened and now >= self.barred_until:
            self._trial_until = now + TRIAL_S

    def failed(self, now: float) -> None:
        """A job there failed by the peer's fault, or the peer could not be reached."""
        if self._opened:
            if now >= self._open_until:
                self._open(now)
            return
        self._failures = [at for at in self._failures if at > now - WINDOW_S]
        self._failures.append(now)
        if len(self._failures) > MOST_FAILURES:
            self._open(now)

    def worked(self, now: float) -> None:
        """A job there went well."""
        if now < self._open_until or not self._opened:
            return
        self._trial_until = -math.inf
        self._good += 1
        if self._good >= GOOD_TRIALS:
            self._opened, self._failures = 0, []

    def released(self) -> None:
        """A job there ended, and says nothing about the peer."""
        self._trial_until = -math.inf

    def forgive(self, since: float) -> None:
        """The failures since then were not the peer's: if only they opened the breaker, it closes."""
        self._failures = [at for at in self._failures if at < since]
        if self._opened == 1 and len(self._failures) <= MOST_FAILURES:
            self._opened = 0
            self._open_until = self._trial_until = -math.inf

    def _open(self, now: float) -> None:
        self._open_until = now + min(MOST_S, FIRST_S * 2.0**self._opened)
        self._trial_until = -math.inf
        self._opened += 1
        self._good = 0
