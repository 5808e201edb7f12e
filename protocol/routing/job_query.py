"""What a job asks of a peer: the requirements of the job and the preferences of its caller.

Not here: where they come from (the driver), and which peers meet them (``filters``).
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.ids import PeerId


@dataclass(frozen=True, slots=True)
class JobQuery:
    """The requirements of a job and the preferences of its caller.

    ``body_bytes`` have to be sent to a peer before it can begin.  ``max_price`` is in USD per million tokens of answer.
    ``order``, ``only`` and ``ignore`` name peers by id, by short id, or by label, which a peer chooses freely.
    ``zone`` is ``local``, ``mine``, ``trusted`` or ``anyone``; ``trusted`` are the peers that the middle two allow.
    ``sort`` is ``price``, ``throughput`` or ``latency``, and replaces the policy.  ``exclude`` are the peers that were
    tried already.
    """

    model: str
    prompt_tokens: int = 0
    max_tokens: int = 256
    capabilities: frozenset[str] = frozenset()
    quantizations: tuple[str, ...] = ()
    max_price: float | None = None
    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sort: str | None = None
    zone: str = "anyone"
    exclude: frozenset[PeerId] = frozenset()
    trusted: frozenset[PeerId] = frozenset()
    body_bytes: int = 0
