"""The end of a job holds for exactly this worker, this job and this answer."""

from __future__ import annotations

import msgspec
import pytest

from protocol.ids import JobId
from protocol.statements.keys import Ed25519Signer
from protocol.wire.end_signature import end_holds, sign_end
from protocol.wire.messages import End

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
