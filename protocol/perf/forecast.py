"""The prediction of one job at one peer, as the entry that ranks the peers makes it.

Not here: how it is computed (``cost_model``, ``routing.candidate_table``) and corrected (``reputation``).
"""

from __future__ import annotations

import msgspec


class Forecast(msgspec.Struct, frozen=True, gc=False):
    """Seconds from the request to the first token, and seconds per token after it.

    ``sigma`` is the standard deviation of the logarithm of both.  The figures of ``base`` are those before any
    correction by observations: ``base_wait_s`` is the part that no correction scales and no guess enlarges (link, dial,
    cold start), and ``base_prompt_s`` the part that the peer's speed decides (queue and prompt), of which the peer's
    load tells ``base_queue_s``.  ``ttft_s`` is the first and the corrected second one, and what the upload and the
    variation of the link may add.  ``chunk_s`` is how long a step of the engine takes that also reads a chunk of
    another prompt: no token comes faster meanwhile.
    """

    ttft_s: float
    itl_s: float
    sigma: float
    base_wait_s: float
    base_prompt_s: float
    base_itl_s: float
    chunk_s: float = 0.0
    base_queue_s: float = 0.0
