"""Parses the server-sent events of OpenAI streams: it takes bytes and returns the ``data`` of complete events.

It drops comments and event names, because every OpenAI event has its name in its JSON.  It does not read the data.
"""

from __future__ import annotations

from typing import Final

#: Longest event, bytes (guess: a token with 20 logprobs has 4 KiB; a whole Responses object is the largest).
MOST_EVENT_BYTES: Final = 4 * 1024 * 1024


class EventTooLong(ValueError):
    """The engine sent an event of more than 4 MiB."""


class Events:
    """Splits a byte stream into events; one per answer."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that these bytes complete."""
        data = self._rest + data
        if b"\r" in data:
            held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *blocks, self._rest = data.split(b"\n\n")
        if len(self._rest) > MOST_EVENT_BYTES:
            raise EventTooLong(str(len(self._rest)))
        return [payload for block in blocks if (payload := _data(block))]


def _data(block: bytes) -> bytes:
    # Engines send one line per event; the general form is for other servers.
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if len(lines) < 2 else b"".join(lines)
