"""A daemon's network as version 0.1.0 spoke it: the first wire format, pinned, around the present code.

``OldNet`` dials as 0.1.0 did and rewrites the frames of each link.  What leaves has the fields that 0.1.0 sent, and a
message that 0.1.0 did not know does not leave.  What arrives is cut to the fields that 0.1.0 read; 0.1.0 passed over
unknown kinds between nodes and read no others, so an unknown kind of a job raises.  Sealed statements pass unchanged,
because their author signed them.  The fields are in ``tests.protocol.wire.version_0_1_0``.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from p2pnode.swarm.libp2p import Libp2pLink, Libp2pNet, negotiate
from p2pnode.swarm.net import Address
from protocol.ids import PeerId
from protocol.wire.mux import FRAME_OVERHEAD
from tests.protocol.wire.version_0_1_0 import as_0_1_0

_HEAD: Final = struct.Struct(">II")


class Frames:
    """Rewrites one direction of a link, in whole frames.  ``seen`` counts kinds, ``dropped`` those passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self.seen: Counter[int] = Counter()
        self.dropped: Counter[int] = Counter()

    def rewrite(self, data: bytes) -> bytes:
        self._rest += data
        out = b""
        while len(self._rest) >= FRAME_OVERHEAD:
            channel, word = _HEAD.unpack_from(self._rest)
            kind, end = word >> 24, FRAME_OVERHEAD + (word & 0xFFFFFF)
            if len(self._rest) < end:
                break
            payload = as_0_1_0(kind, self._rest[FRAME_OVERHEAD:end])
            self._rest = self._rest[end:]
            if payload is None:
                self.dropped[kind] += 1
            else:
                self.seen[kind] += 1
                out += _HEAD.pack(channel, kind << 24 | len(payload)) + payload
        return out


class OldLink:
    """A link of 0.1.0; ``Link`` without its fast ways, as the interface allows."""

    def __init__(self, inner: Libp2pLink, sent: Frames, heard: Frames) -> None:
        self._inner = inner
        self._sent, self._heard = sent, heard

    def __getattr__(self, name: str) -> Any:  # peer, address, outbound, via, unsent, aclose, cut
        return getattr(self._inner, name)

    async def send_all(self, data: bytes) -> None:
        await self._inner.send_all(self._sent.rewrite(data))

    def room(self) -> int:
        return 0

    async def receive_some(self) -> bytes:
        while data := await self._inner.receive_some():
            if known := self._heard.rewrite(data):
                return known
        return b""

    def offer(self, take: Callable[[bytes], bool]) -> None:
        """All data is received."""

    def stir(self) -> None:
        raise AssertionError("nothing is offered")


class OldNet(Libp2pNet):
    """The network of a node of 0.1.0."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.links_made: list[OldLink] = []

    def _old(self, link: Libp2pLink) -> OldLink:
        made = OldLink(link, Frames(), Frames())
        self.links_made.append(made)
        return made

    @property
    def sent(self) -> Counter[int]:
        """Kinds of the frames that left."""
        return sum((link._sent.seen for link in self.links_made), Counter[int]())

    @property
    def heard(self) -> Counter[int]:
        return sum((link._heard.seen for link in self.links_made), Counter[int]())

    @property
    def passed_over(self) -> Counter[int]:
        return sum((link._heard.dropped for link in self.links_made), Counter[int]())

    async def dial(self, peer: PeerId | None, addrs: tuple[str, ...]) -> Any:
        return self._old(await super().dial(peer, addrs))

    async def accept(self) -> Any:
        return self._old(await super().accept())

    async def _dial_one(self, target: Address, via: str) -> Libp2pLink:
        """The library negotiates, and waits for each answer."""
        assert self._host is not None
        peer = target.peer if target.peer is not None else await self._who_is(self._host, target)
        return await self._connect(target, peer, via, functools.partial(negotiate, self._host.get_network()))
