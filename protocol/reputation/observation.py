"""One measured attempt at a peer, as the reputation of that peer takes it.

Not here: how an attempt is measured (``jobs.cascade``).
"""

from __future__ import annotations

import msgspec

from protocol.ids import PeerId
from protocol.perf.forecast import Forecast
from protocol.reputation.outcomes import Outcome


class Observation(msgspec.Struct, frozen=True, gc=False):
    """What became of one attempt.

    ``blame``: whether it counts against the peer.  ``first_s`` is the time from the request to the first piece and
    ``token_s`` the mean time between two pieces after it, seconds; None where there was none.  ``promise_s`` is what
    the peer promised for the first piece, 0 for nothing.  ``lost_s`` is the whole time of the attempt, which a failure
    costs.  An answer that is not ``streamed`` comes as one piece at its end; ``tokens`` is how many a complete one has
    by the peer's count, at most as many as were asked for.
    """

    peer: PeerId
    model: str
    outcome: Outcome
    blame: bool
    first_s: float | None = None
    token_s: float | None = None
    pieces: int = 0
    promise_s: float = 0.0
    forecast: Forecast | None = None
    lost_s: float = 0.0
    streamed: bool = True
    tokens: int = 0
