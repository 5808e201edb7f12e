"""The time that one attempt at a peer has, from what was predicted for it and what the peer promised.

Theory of operation
-------------------
The prediction (``perf.forecast``) gives the seconds to the first token and per token.  Both are uncertain, so a limit
is the prediction times ``e^(2 sigma)``, the bound below which 97 % of the attempts lie if the logarithm is normal.

* *First token*: that bound of the prediction, and at least ``first_token_s``, because a queue may have grown since the
  load was told.  The promise in ACCEPT extends it, ``first_token_promises`` times what was promised, but never beyond
  three times the bound of the prediction: the one who promises must not choose the deadline.  The time for the upload
  of the body and, where the answer is not streamed, for all its tokens comes on top.
* *A promise beyond that limit* means that the peer is busy, and the next peer is better (``too_late``).  If no other
  peer is left, a promise counts up to ``promise_most_s``.
* *Pace*: in each window after the first token there must be some pieces.  A piece may take five tokens of the slowest
  predicted pace, a step of the engine that reads a part of another's prompt, and ``PIECE_S`` in any case (engines put
  several tokens into one event), whichever is longest.  The window is as long as 20 of those tokens or four pieces, and
  at least ``pace_window_s``.  So a machine that is predicted slow may be slow, and one that is predicted fast may not.
  Where pieces do not tell the pace, one in ``progress_window_s`` is enough: with tools, since engines hold back a call
  until it is whole.

Without a prediction constants take its place.

Not here: silence and the accept (``cascade``, the same for every peer), the caller's deadline (``entry``).
"""

from __future__ import annotations

import math
from typing import Final

from protocol.jobs.cascade_events import Begin
from protocol.perf.forecast import Forecast
from protocol.settings import CascadeSettings

#: Standard deviations of the logarithm between the prediction and its limit (routing study, 2.6).
DEVIATIONS: Final = 2.0
#: The most that uncertainty may stretch a limit (guess: sigma 1, a peer of which nothing is known).
MOST_STRETCH: Final = math.exp(2.0)
#: Limits of a promise, as multiples of the limit of the prediction (guess).
PROMISE_LIMITS: Final = 3.0
#: Slow tokens in a window (routing study: a stall is 20) and in the time of one piece (guess); pieces in a window.
WINDOW_TOKENS: Final = 20.0
PIECE_TOKENS: Final = 5.0
WINDOW_PIECES: Final = 4.0
#: Every machine may take that long for a piece, seconds (guess: 20 tokens in one event at 25 tokens a second).
PIECE_S: Final = 0.8
#: No limit takes a token for faster than this, seconds (guess: the network's share, and the pace of reading).
TOKEN_LEAST_S: Final = 0.04
#: Seconds per token of a whole answer where nothing is predicted (guess: five tokens a second are slow).
UNKNOWN_TOKEN_S: Final = 0.2


class Deadlines:
    """See the module's docstring.  All figures are seconds."""

    def __init__(self, settings: CascadeSettings, begin: Begin, forecast: Forecast | None) -> None:
        self._settings = settings
        stretch = 1.0 if forecast is None else min(math.exp(DEVIATIONS * forecast.sigma), MOST_STRETCH)
        predicted_s = 0.0 if forecast is None else forecast.ttft_s * stretch
        self._first_s = max(settings.first_token_s, predicted_s)
        #: The longest promise of a first token that is waited for.
        self._promise_s = settings.promise_most_s if forecast is None else PROMISE_LIMITS * self._first_s
        slow_s = UNKNOWN_TOKEN_S if forecast is None else max(TOKEN_LEAST_S, forecast.itl_s * stretch)
        self._more_s = begin.body_bytes / settings.upload_bytes_s + begin.tokens_before * slow_s
        #: How long a window is, and how many pieces have to come in it.
        self.window_s = settings.progress_window_s
        self.least_pieces = 1.0
        if forecast is None or not begin.stream:
            self.least_pieces = settings.least_deltas_s * settings.progress_window_s
        elif begin.holds_back:
            self.window_s = max(self.window_s, WINDOW_TOKENS * slow_s)
        else:
            piece_s = max(PIECE_S, PIECE_TOKENS * slow_s, forecast.chunk_s * stretch)
            self.window_s = max(settings.pace_window_s, WINDOW_TOKENS * slow_s, WINDOW_PIECES * piece_s)
            self.least_pieces = self.window_s // piece_s

    def too_late(self, promise_s: float) -> bool:
        """Whether a peer that promises this is too busy to wait for while others are left."""
        return promise_s > self._promise_s

    def first_due(self, accepted_at: float, promise_s: float, *, last: bool) -> float:
        """When the first piece has to be there.  ``last``: no other peer is left."""
        settings = self._settings
        most_s = max(self._promise_s, settings.promise_most_s) if last else self._promise_s
        promised_s = min(settings.first_token_promises * promise_s, most_s)
        return accepted_at + max(self._first_s, promised_s) + self._more_s
