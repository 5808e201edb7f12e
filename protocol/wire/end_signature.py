"""Signs and verifies the END of a job.

The worker signs ``END_DOMAIN || job || msgpack of END with an empty signature``.  So an END and an answer together
prove to third parties which worker gave this answer to which job.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.codec import pack
from protocol.ids import JobId, PeerId
from protocol.statements.keys import Signer, verify
from protocol.wire.messages import End

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
