"""The length of a message on the wire, without encoding it: most messages carry statements that are already bytes.

Not here: messages of jobs, which have one length per kind (``jobs``).
"""

from __future__ import annotations

from protocol.wire.messages import NodeMessage, Records, encode


def message_bytes(message: NodeMessage) -> int:
    """Length of the encoded message; that of pushed statements by sum, since they are most of all messages."""
    if type(message) is Records:
        size = 2 if len(message.envelopes) < 16 else 4
        for envelope in message.envelopes:
            length = len(envelope.wire)
            size += length + (2 if length < 256 else 3)
        return size
    return len(encode(message))
