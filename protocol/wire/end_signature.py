"""Signs and verifies the END of a job.

The worker signs ``END_DOMAIN || job || msgpack of END with an empty signature``.  So an END and an answer together
prove to third parties which worker gave this answer to which job.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.codec import pack
from protocol.errors import BadFrame
from protocol.ids import JobId, PeerId
from protocol.statements.keys import Signer, verify
from protocol.wire.messages import END, End, decode

#: The signature domain of END, which never travels in an envelope.
END_DOMAIN: Final = b"p2pnode/end/1\0"


def _text(job: JobId, end: End) -> bytes:
    return END_DOMAIN + job + pack(msgspec.structs.replace(end, signature=b""))


def sign_end(signer: Signer, job: JobId, end: End) -> End:
    """Add the signature of this worker to ``end``."""
    return msgspec.structs.replace(end, signature=signer.sign(_text(job, end)))


def end_holds(worker: PeerId, job: JobId, end: End) -> bool:
    """Whether ``worker`` signed exactly this end of this job."""
    return verify(worker, _text(job, end), end.signature)


def read_end(worker: PeerId, job: JobId, payload: bytes, sha256: bytes) -> End:
    """The END in a frame of ``worker``; ``sha256`` is that of the answer as it was received.

    Raises:
      RemoteProtocolError: it cannot be read, its signature is wrong, or it ends another answer.
    """
    end = decode(END, payload)
    assert isinstance(end, End), "a payload is decoded as its kind says"
    if not end_holds(worker, job, end):
        raise BadFrame("the signature of END is wrong")
    if end.sha256 != sha256:
        raise BadFrame("END is about another answer")
    return end
