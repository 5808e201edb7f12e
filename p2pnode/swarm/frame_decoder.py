"""A fast path for Noise packets and yamux frames, which py-libp2p handles in a dozen steps per frame.

The library reads the length of a packet, the packet, a header, and a body with a deadline of its own, takes a lock and
wakes the reader; all other tasks may run at every step.  Measured, that was a third of the cost of a message at both
ends.  A ``FrameDecoder`` takes the place of yamux's session.  It delivers complete plain data of an open stream to
where the library would have put it.  The header of anything else (a flag, another kind, an unknown stream, an
incomplete body) goes to the library, so the hard cases stay there, under the bounds of ``yamux``.
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
#: The header of a yamux frame: version, kind, flags, stream, length.
HEADER: Final = struct.Struct("!BBHII")
DATA, WINDOW_UPDATE = 0, 1
#: Packets decrypted before other tasks run (guess: well under a millisecond with small ones).
_RUN: Final = 32
_LENGTH: Final = struct.Struct("!H")
#: The nonce of a packet: 32 zero bits and a counter (Noise specification, section 12.3).
_NONCE: Final = struct.Struct("<IQ")

#: Takes plain data for a stream; False if the library has to handle it.
Deliver = Callable[[int, bytes], bool]


def ciphers(protocol: Any) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    """The functions that encrypt and decrypt the packets of a Noise session after its handshake.

    The library's functions do it in five steps, and four of them check conditions that cannot change.
    """
    out, into = protocol.cipher_state_encrypt, protocol.cipher_state_decrypt
    encrypt, decrypt = out.cipher.cipher.encrypt, into.cipher.cipher.decrypt
    sealed, opened = itertools.count(out.n), itertools.count(into.n)
    out.n = into.n = MAX_NONCE  # the library now refuses to encrypt, so that no nonce is used twice

    def seal(data: bytes) -> bytes:
        return encrypt(_NONCE.pack(0, next(sealed)), data, None)  # type: ignore[no-any-return]  # noiseprotocol

    def unseal(data: bytes) -> bytes:
        try:
            return decrypt(_NONCE.pack(0, next(opened)), data, None)  # type: ignore[no-any-return]  # has no types
        except InvalidTag:
            raise NoiseInvalidMessage("a packet was changed on its way") from None

    return seal, unseal


class BufferedPackets(NoisePacketReadWriter):
    """Reads Noise packets from the socket through a buffer, with half the system calls."""

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
                return data[2:]  # exactly one packet, which is the usual case on an idle link
            buffer += data
        self._run += 1
        if self._run > _RUN:
            self._run = 0
            await trio.lowlevel.checkpoint()
        packet = bytes(buffer[2:need])
        del buffer[:need]
        return packet


class FrameDecoder:
    """Replaces the session of yamux.  ``deliver`` gets the plain data; the library reads everything else."""

    def __init__(self, session: Any, deliver: Deliver) -> None:
        self._session = session
        self._deliver = deliver
        self._seal: Callable[[bytes], bytes] = session.conn.encrypt
        self._open: Callable[[bytes], bytes] = session.conn.decrypt
        self._packets: BufferedPackets = session.conn.read_writer
        #: Decrypted data that was not parsed yet; data right behind the negotiation is still in the session.
        self._rest: bytes = session._drain(None)
        #: Bytes of a body that the library has to read, because it got the header.
        self._body = 0
        #: What has to come before the first frame.
        self._expected = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def expect(self, lines: bytes) -> None:
        """Frames begin after ``lines``, the answer to a proposal; other data ends the connection."""
        self._expected = lines

    async def _pass_expected(self) -> None:
        lines, self._expected = self._expected, b""
        await self._fill(len(lines))
        if not self._rest.startswith(lines):
            raise ConnectionClosedError("the peer did not agree to the proposed multiplexer", transport="tcp")
        self._rest = self._rest[len(lines) :]

    async def read(self, n: int) -> bytes:
        """``n`` bytes for the library: of an expected body, or the header of the next frame that it handles."""
        if self._expected:
            await self._pass_expected()
        if self._body:
            await self._fill(n)
            self._body = max(0, self._body - n)
        else:
            self._deliver_plain()
            while len(self._rest) < HEADER.size:
                if self._rest:
                    await self._fill(len(self._rest) + 1)
                else:
                    self._rest = await self._next()
                self._deliver_plain()
            _, kind, _, _, length = HEADER.unpack_from(self._rest)
            self._body = length if kind == DATA else 0
            await trio.lowlevel.checkpoint()  # so that other tasks run during a flood of such frames
        data, self._rest = self._rest[:n], self._rest[n:]
        return data

    async def _fill(self, size: int) -> None:
        """Read until ``size`` bytes are available."""
        if not self._rest:
            self._rest = await self._next()  # usually enough
        if len(self._rest) >= size:
            return
        pieces = bytearray(self._rest)  # a peer may send a long body in packets of one byte
        while len(pieces) < size:
            pieces += await self._next()
        self._rest = bytes(pieces)

    async def _next(self) -> bytes:
        data = self._open(await self._packets.read_msg())
        if not data:
            raise ConnectionClosedError("an empty packet", transport="tcp")
        return data

    def _deliver_plain(self) -> None:
        """Deliver the plain frames at the beginning of the available data."""
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
        """Encrypt ``data`` for the socket; packets must be sent in the order in which they were sealed."""
        if len(data) <= MAX_PLAINTEXT_LENGTH:
            sealed = self._seal(data)
            return _LENGTH.pack(len(sealed)) + sealed
        starts = range(0, len(data), MAX_PLAINTEXT_LENGTH)
        return b"".join(self.seal(data[start : start + MAX_PLAINTEXT_LENGTH]) for start in starts)
