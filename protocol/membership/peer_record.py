"""One peer as this node sees it: its own statements, our observations of it, and the values derived from both.

The view keeps one record per peer and is its only writer; every other part may read it.  Not here: the size of the view
(``peer_view``, ``eviction``), the columns that ranking reads (``columns``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from protocol import PROTOCOL_VERSION
from protocol.ids import PeerId
from protocol.statements.adverts import Advert, Load, Status
from protocol.statements.envelope import Envelope
from protocol.wire.messages import FreshLoad

_INF: Final = math.inf
_DRAINING: Final = int(Status.DRAINING)
_LEFT: Final = int(Status.LEFT)


@dataclass(slots=True, eq=False)
class PeerRecord:
    """One peer.  Times are monotonic seconds of this node."""

    peer: PeerId
    row: int
    first_seen: float
    is_self: bool = False
    linked: bool = False
    outbound: bool = False
    advert: Advert | None = None
    load: Load | None = None
    advert_env: Envelope | None = None
    load_env: Envelope | None = None
    #: When they arrived, and until when they are believed.
    advert_at: float = 0.0
    load_at: float = 0.0
    advert_until: float = -_INF
    load_until: float = -_INF
    #: The counts of its load as it told them over the link, when, and until when they count more than gossip's.
    fresh: FreshLoad | None = None
    fresh_at: float = 0.0
    fresh_until: float = -_INF
    state: str = "alive"
    state_since: float = 0.0
    #: Smoothed round trip and its mean deviation, seconds; None until measured.
    rtt_s: float | None = None
    rttvar_s: float = 0.0
    #: Dials in a row that failed, and until when others are asked first for that.
    misses: int = 0
    missed_until: float = -_INF
    #: The remote IP address of the link (or the last one), as text.
    address: str = ""
    #: The memory of its GPUs, as far as the claim counts.
    vram_mib: int = 0
    #: What its advert and its load claim that cannot be true, in words; empty if nothing.
    absurd_advert: str = ""
    absurd_load: str = ""
    #: Our jobs that run there now, and those that went well.
    inflight: int = 0
    successes: int = 0
    group: str = ""

    @property
    def said_goodbye(self) -> bool:
        """Whether its last statement is a goodbye."""
        return self.load is not None and self.load.status == _LEFT

    @property
    def free_mib(self) -> int:
        """Free memory in MiB: the figure of its load, or all of it if there is none."""
        total = 0 if self.advert is None else self.vram_mib
        return total if self.load is None else min(total, self.load.free_vram_mib)

    @property
    def absurd(self) -> str:
        """What it claims that cannot be true, in words; empty if nothing."""
        return self.absurd_advert or self.absurd_load

    @property
    def open_until(self) -> float:
        """Until when it may be asked for anything: -inf if it is gone, leaves, lies, or speaks another version."""
        advert, load = self.advert, self.load
        if advert is None or advert.protocol != PROTOCOL_VERSION or self.state not in ("alive", "suspect"):
            return -_INF
        if self.absurd:
            return -_INF
        if load is None:  # no load known: assumed to be idle
            return self.advert_until
        return -_INF if load.status >= _DRAINING else min(self.advert_until, self.load_until)

    @property
    def is_kept(self) -> bool:
        """Whether it never gives way to another."""
        return self.is_self or self.linked or self.successes > 0 or self.inflight > 0


def refreshed(load: Load, fresh: FreshLoad) -> Load:
    """A load with newer counts; only gossip says that a peer leaves."""
    return msgspec.structs.replace(
        load,
        status=load.status if load.status == int(Status.LEFT) else fresh.status,
        running=fresh.running,
        waiting=fresh.waiting,
        slots=fresh.slots,
        kv_permille=fresh.kv_permille,
        queued_prefill_tokens=fresh.queued_prefill_tokens,
    )
