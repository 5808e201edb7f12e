"""What of a job is known before it is done, and that its messages are as long as those on the wire."""

from __future__ import annotations

import pytest

from protocol.statements.keys import Ed25519Signer
from protocol.wire.end_signature import sign_end
from protocol.wire.messages import Accept, Busy, End, JobRequest, Refuse, encode
from simulations.sim.jobs import (
    ACCEPT_BYTES,
    BODY_BYTES,
    BODY_TOKEN_BYTES,
    END_BYTES,
    REFUSAL_BYTES,
    REQ_BYTES,
    RST_BYTES,
    Job,
    Truth,
    job_id,
    job_of,
)
from simulations.workload.workload import Arrival

ARRIVAL = Arrival(3.5, 0.25, "m", 100, 77, 400, session=9, blocks=(1, 2), streamed=False)


def test_an_arrival_is_cut_at_the_oracle_boundary() -> None:
    job, truth = job_of(12, ARRIVAL)
    assert job == Job(12, "m", 100, 400, False, (1, 2), 9, 3.5)
    assert truth == Truth(77)
    assert 77 not in [getattr(job, name) for name in Job.__slots__]
    assert job.body_bytes == BODY_BYTES + 100 * BODY_TOKEN_BYTES


def test_ids_are_those_of_the_wire() -> None:
    ids = {job_id(job_of(number, ARRIVAL)[0]) for number in (1, 2, 300)}
    assert len(ids) == 3
    assert {len(each) for each in ids} == {16}


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (
            JobRequest(bytes(16), "/v1/chat/completions", "llama-3.1-8b-instruct", 2300, True, False, 500, 400),
            REQ_BYTES,
        ),
        (Accept(bytes(16), 3, 700), ACCEPT_BYTES),
        (Refuse(404, "model_not_found", "this node does not have", "model"), REFUSAL_BYTES),
        (sign_end(Ed25519Signer(b"k" * 32), job_id(job_of(1, ARRIVAL)[0]), End("stop", 9, 99, bytes(32))), END_BYTES),
    ],
)
def test_messages_of_a_job_have_about_the_length_that_is_charged(
    message: JobRequest | Accept | Refuse | End, size: int
) -> None:
    assert len(encode(message)) == pytest.approx(size, abs=32)


def test_nothing_is_charged_less_than_it_takes_at_least() -> None:
    assert len(encode(Busy(250, 1, 2))) <= REFUSAL_BYTES
    assert RST_BYTES == 4
