"""Noise packets and yamux frames in one go: what py-libp2p does in a dozen steps for every frame.

The library reads the length of a packet, then the packet, then a header, then a body under a deadline of its own, takes
a lock and wakes the reader; every step is a chance for all other tasks of the process to run.  Measured, of what a
message between nodes costs both ends, that was a third.  A ``FrameDecoder`` stands where yamux believes its session to
be. Plain data for an open stream, complete as it nearly always is, goes where the library would have put it; the header
of anything else (a flag, another kind, an unknown stream, a body still on its way) is handed to the library, so that
all that is hard is still done there, under the bounds of ``containment``.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any, Final

import trio
from cryptography.exceptions import InvalidTag
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoisePacketReadWriter
from noise.constants import MAX_NONCE
from noise.exceptions import NoiseInvalidMessage

READ_BYTES: Final = 64 * 1024
#: Of a yamux frame: version, kind, flags, stream, length.
HEADER: Final = struct.Struct("!BBHII")
DATA, WINDOW_UPDATE = 0, 1
#: Packets opened in a row before other tasks run (guess: well under a millisecond of small ones).
_RUN: Final = 32
_LENGTH: Final = struct.Struct("!H")
#: Of a packet: 32 bits of nothing and a number (Noise specification, section 12.3).
_NONCE: Final = struct.Struct("<IQ")

#: Takes plain data for a stream, or says that the library has to.
Deliver = Callable[[int, bytes], bool]


def ciphers(protocol: Any) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    """What seals and what opens the packets of a Noise session, from the end of its handshake on.

    The library's own do the same in five steps, four of which look again at what cannot have changed.
    """
    out, into = protocol.cipher_state_encrypt, protocol.cipher_state_decrypt
    encrypt, decrypt = out.cipher.cipher.encrypt, into.cipher.cipher.decrypt
    sealed, opened = itertools.count(out.n), itertools.count(into.n)
    out.n = into.n = MAX_NONCE  # whoever asks the library now is refused: no number is used twice

    def seal(data: bytes) -> bytes:
        return encrypt(_NONCE.pack(0, next(sealed)), data, None)  # type: ignore[no-any-return]  # noiseprotocol

    def unseal(data: bytes) -> bytes:
        try:
            return decrypt(_NONCE.pack(0, next(opened)), data, None)  # type: ignore[no-any-return]  # has no types
        except InvalidTag:
            raise NoiseInvalidMessage("a packet is not what its sender sealed") from None

    return seal, unseal


class BufferedPackets(NoisePacketReadWriter):
    """Noise packets from the socket, however they were cut, with half the system calls."""

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        self._buffer = bytearray()
        self._run = 0

    async def read_msg(self) -> bytes:
        buffer, need = self._buffer, 2
        while True:
            if len(buffer) >= 2:
                need = 2 + int.from_bytes(buffer[:2], "big")
                if len(buffer) >= need:
                    break
            self._run = 0
            data = await self.read_write_closer.read(READ_BYTES)
            if not data:
                raise IncompleteReadError("the connection ended", expected_bytes=need, received_bytes=len(buffer))
            if not buffer and len(data) == 2 + int.from_bytes(data[:2], "big"):
                return data[2:]  # one packet, whole and alone: nearly always, at rest
            buffer += data
        self._run += 1
        if self._run > _RUN:
            self._run = 0
            await trio.lowlevel.checkpoint()
        packet = bytes(buffer[2:need])
        del buffer[:need]
        return packet


class FrameDecoder:
    """A session as yamux sees it.  ``deliver`` gets the plain data; the library reads everything else."""

    def __init__(self, session: Any, deliver: Deliver) -> None:
        self._session = session
        self._deliver = deliver
        self._seal: Callable[[bytes], bytes] = session.conn.encrypt
        self._open: Callable[[bytes], bytes] = session.conn.decrypt
        self._packets: BufferedPackets = session.conn.read_writer
        #: Opened and not yet looked at; what the peer sent right behind the negotiation is in the session still.
        self._rest: bytes = session._drain(None)
        #: Bytes of a body that the library has still to read, because it was given the header.
        self._body = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def read(self, n: int) -> bytes:
        """``n`` bytes: of the body that the library waits for, or the header of the next frame that is not plain."""
        if self._body:
            await self._fill(n)
            self._body = max(0, self._body - n)
        else:
            self._sift()
            while len(self._rest) < HEADER.size:
                if self._rest:
                    await self._fill(len(self._rest) + 1)
                else:
                    self._rest = await self._next()
                self._sift()
            _, kind, _, _, length = HEADER.unpack_from(self._rest)
            self._body = length if kind == DATA else 0
            await trio.lowlevel.checkpoint()  # or a flood of what is not plain would be one long turn
        data, self._rest = self._rest[:n], self._rest[n:]
        return data

    async def _fill(self, size: int) -> None:
        """Until so many bytes wait."""
        if not self._rest:
            self._rest = await self._next()  # most often that is all
        if len(self._rest) >= size:
            return
        pieces = bytearray(self._rest)  # of a long body, there may be one for each of its bytes
        while len(pieces) < size:
            pieces += await self._next()
        self._rest = bytes(pieces)

    async def _next(self) -> bytes:
        data = self._open(await self._packets.read_msg())
        if not data:
            raise ConnectionClosedError("an empty packet", transport="tcp")
        return data

    def _sift(self) -> None:
        """Deliver the plain frames at the beginning of what waits."""
        data, position = self._rest, 0
        end = len(data) - HEADER.size
        while position <= end:
            _, kind, flags, stream, length = HEADER.unpack_from(data, position)
            start = position + HEADER.size
            stop = start + length
            if kind != DATA or flags or not length or stop > len(data):
                break
            if not self._deliver(stream, data[start:stop]):
                break
            position = stop
        if position:
            self._rest = data[position:]

    def seal(self, data: bytes) -> bytes:
        """What goes over the socket for ``data``; in the order in which it was sealed, or the other end reads noise."""
        if len(data) <= MAX_PLAINTEXT_LENGTH:
            sealed = self._seal(data)
            return _LENGTH.pack(len(sealed)) + sealed
        starts = range(0, len(data), MAX_PLAINTEXT_LENGTH)
        return b"".join(self.seal(data[start : start + MAX_PLAINTEXT_LENGTH]) for start in starts)
