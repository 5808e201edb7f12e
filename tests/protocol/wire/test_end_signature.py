"""The end of a job holds for exactly this worker, this job and this answer."""

from __future__ import annotations

import msgspec
import pytest

from protocol.errors import BadFrame, RemoteProtocolError
from protocol.ids import JobId
from protocol.statements.keys import Ed25519Signer
from protocol.wire.end_signature import end_holds, read_end, sign_end
from protocol.wire.messages import End, encode

WORKER = Ed25519Signer(bytes(32))
JOB = JobId(bytes(range(16)))
END = sign_end(WORKER, JOB, End("stop", 3, 4, bytes(32), "m"))


def test_it_holds() -> None:
    assert end_holds(WORKER.peer_id, JOB, END)


@pytest.mark.parametrize(
    "changed",
    [
        {"finish": "error"},
        {"tokens_in": 4},
        {"tokens_out": 3},
        {"sha256": b"x" * 32},
        {"message": ""},
        {"signature": b""},
    ],
)
def test_it_holds_for_nothing_else(changed: dict[str, object]) -> None:
    assert not end_holds(WORKER.peer_id, JOB, msgspec.structs.replace(END, **changed))


def test_it_holds_for_no_other_job_or_worker() -> None:
    assert not end_holds(WORKER.peer_id, JobId(bytes(16)), END)
    assert not end_holds(Ed25519Signer(b"x" * 32).peer_id, JOB, END)


def test_it_is_read_with_the_answer_that_it_ends() -> None:
    payload = encode(END)
    assert read_end(WORKER.peer_id, JOB, payload, bytes(32)) == END
    with pytest.raises(BadFrame, match="signature"):
        read_end(WORKER.peer_id, JobId(bytes(16)), payload, bytes(32))
    with pytest.raises(BadFrame, match="another answer"):
        read_end(WORKER.peer_id, JOB, payload, b"x" * 32)
    with pytest.raises(RemoteProtocolError):
        read_end(WORKER.peer_id, JOB, payload[:-1], bytes(32))
