"""The signed end of a job: made by the worker, checked by the entry.

The signature is the worker's over ``END_DOMAIN || job || msgpack of END with an empty signature``, so that an END
proves who said what under which job, to anybody who holds the answer.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.codec import pack
from protocol.ids import JobId, PeerId
from protocol.statements.keys import Signer, verify
from protocol.wire.messages import End

#: An END is signed under a domain of its own; it never travels in an envelope.
END_DOMAIN: Final = b"p2pnode/end/1\0"


def _text(job: JobId, end: End) -> bytes:
    return END_DOMAIN + job + pack(msgspec.structs.replace(end, signature=b""))


def sign_end(signer: Signer, job: JobId, end: End) -> End:
    """``end`` with the signature of this worker."""
    return msgspec.structs.replace(end, signature=signer.sign(_text(job, end)))


def end_holds(worker: PeerId, job: JobId, end: End) -> bool:
    """Whether ``worker`` signed exactly this end of this job."""
    return verify(worker, _text(job, end), end.signature)
