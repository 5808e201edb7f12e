"""Refusals that blame the request: when the caller has to accept them, and what it is told."""

from __future__ import annotations

import pytest

from protocol.ids import PeerId, short
from protocol.jobs.cascade_events import Refused
from protocol.jobs.refusals import Refusals
from protocol.wire.messages import Refuse

A, B = PeerId(b"a" * 32), PeerId(b"b" * 32)


def refused(peer: PeerId, code: str = "invalid_parameter", status: int = 400, **more: bool) -> Refused:
    return Refused(peer, Refuse(status, code, "temperature is 5", "temperature", True), **more)


def test_one_peer_is_not_enough() -> None:
    refusals = Refusals()
    assert not refusals
    assert not refusals.heard(refused(A))
    assert refusals
    told = refusals.answer()
    assert (told.status, told.code, told.param, told.retry_after) == (400, "invalid_parameter", "temperature", None)
    assert told.message.startswith(f'The peer {short(A)} refuses the request. It says: "temperature is 5". No other')


def test_a_second_peer_settles_it_and_its_words_are_marked() -> None:
    refusals = Refusals()
    refusals.heard(refused(A))
    assert refusals.heard(refused(B, "unsupported_parameter"))
    told = refusals.answer()
    assert told.code == "unsupported_parameter"
    assert (
        told.message
        == f'The peers {short(A)} and {short(B)} refuse the request. The last one says: "temperature is 5".'
    )


def test_this_nodes_own_check_settles_it_in_its_own_words() -> None:
    refusals = Refusals()
    assert refusals.heard(refused(A, checked=True))
    assert refusals.answer().message == "temperature is 5"


@pytest.mark.parametrize("code", ["context_length_exceeded", "request_too_large"])
def test_this_nodes_own_estimate_of_the_length_counts_as_a_check(code: str) -> None:
    assert not Refusals().heard(refused(A, code))
    assert not Refusals(too_long=True).heard(refused(A)), "it says nothing about other faults"
    refusals = Refusals(too_long=True)
    assert refusals.heard(refused(A, code))
    assert refusals.answer().message == f'The peer {short(A)} refuses the request. It says: "temperature is 5".'


@pytest.mark.parametrize("code", ["invalid_api_key", "", "deadline_exceeded", "x" * 64])
def test_a_peer_chooses_neither_status_nor_code(code: str) -> None:
    refusals = Refusals()
    refusals.heard(refused(A, code, 401))
    assert (refusals.answer().status, refusals.answer().code) == (400, "invalid_parameter")
    refusals = Refusals()
    refusals.heard(refused(A, "request_too_large", 413))
    assert (refusals.answer().status, refusals.answer().code) == (413, "request_too_large")
