"""The multiplexer: every frame arrives once and in order, credit holds, a reset ends it, and no bytes break it."""

from __future__ import annotations

import itertools
import random
import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.errors import BadFrame, CreditExceeded, LocalProtocolError, RemoteProtocolError
from protocol.settings import LinkSettings
from protocol.wire import mux
from protocol.wire.messages import (
    BODY,
    CREDIT,
    DELTA,
    DIGEST,
    DOUBT,
    END,
    GOAWAY,
    HELLO,
    PING,
    PONG,
    RECORDS,
    REFUSE,
    REQ,
    RST,
)
from protocol.wire.mux import FRAME_OVERHEAD, Credited, Dead, Frame, LinkEvent, Mux, Opened, Reset, ResetCode, Rtt

SMALL = LinkSettings(
    credit_bytes=256, frame_bytes=100, write_bytes=128, quantum_bytes=64, channels=4, control_queue_bytes=256
)


def frame(channel: int, kind: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack(">II", channel, kind << 24 | (len(payload) if length is None else length)) + payload


def pair(limits: LinkSettings = SMALL) -> tuple[Mux, Mux]:
    return Mux(limits, dialer=True, rng=random.Random(1)), Mux(limits, dialer=False, rng=random.Random(1))


def carry(sender: Mux, receiver: Mux, now: float = 0.0) -> list[LinkEvent]:
    """Everything that waits, in as many writes as it takes."""
    events: list[LinkEvent] = []
    while sender.has_data:
        events += receiver.receive(sender.data_to_send(), now)
    return events


def opened(sender: Mux, receiver: Mux) -> int:
    channel = sender.open()
    sender.send(channel, REQ, b"")
    assert carry(sender, receiver) == [Opened(channel), Frame(channel, REQ, b"")]
    return channel


# --- frames --------------------------------------------------------------------------------------------------------


def test_a_frame_is_eight_bytes_and_its_payload() -> None:
    dialer, _ = pair()
    channel = dialer.open()
    dialer.send(channel, REQ, b"hi")
    assert dialer.data_to_send() == b"\x00\x00\x00\x01\x20\x00\x00\x02hi"
    assert dialer.data_to_send() == b""


def test_the_dialler_takes_odd_channels_and_the_acceptor_even_ones() -> None:
    dialer, acceptor = pair()
    assert [dialer.open(), dialer.open(), acceptor.open(), acceptor.open()] == [1, 3, 2, 4]


def test_frames_that_queue_up_leave_in_one_write_with_the_control_first() -> None:
    dialer, acceptor = pair(LinkSettings())
    first, second = dialer.open(), dialer.open()
    for channel in (first, second):
        dialer.send(channel, REQ, b"")
        dialer.send(channel, BODY, b"x" * 10)
    assert dialer.send(0, HELLO, b"hello")
    assert dialer.waiting_bytes == 2 * (8 + 18) + 13
    write = dialer.data_to_send()
    assert not dialer.has_data
    assert dialer.waiting_bytes == 0
    assert [event for event in acceptor.receive(write, 0.0) if isinstance(event, Frame)] == [
        Frame(0, HELLO, b"hello"),
        Frame(first, REQ, b""),
        Frame(first, BODY, b"x" * 10),
        Frame(second, REQ, b""),
        Frame(second, BODY, b"x" * 10),
    ]


def test_channels_may_speak_in_another_order_than_they_were_opened() -> None:
    dialer, acceptor = pair()
    first, second = dialer.open(), dialer.open()
    dialer.send(second, REQ, b"2")
    dialer.send(first, REQ, b"1")
    assert [e.channel for e in carry(dialer, acceptor) if isinstance(e, Opened)] == [second, first]


def test_a_second_request_on_an_open_channel_is_for_the_job_to_judge() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    dialer.send(channel, REQ, b"again")
    assert carry(dialer, acceptor) == [Frame(channel, REQ, b"again")]


def test_messages_between_nodes_and_goaway_are_handed_over() -> None:
    dialer, acceptor = pair()
    for kind in (HELLO, GOAWAY, RECORDS, DIGEST, DOUBT, 31):
        assert dialer.send(0, kind, b"")
    assert [e.kind for e in carry(dialer, acceptor) if isinstance(e, Frame)] == [
        HELLO,
        GOAWAY,
        RECORDS,
        DIGEST,
        DOUBT,
        31,
    ]


def test_reserved_kinds_of_the_link_are_passed_over() -> None:
    _, acceptor = pair()
    assert acceptor.receive(frame(0, 6, b"new") + frame(0, 15) + frame(0, HELLO), 0.0) == [Frame(0, HELLO, b"")]


# --- what we may not do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PING, PONG, CREDIT, RST, 6, REQ, END])
def test_only_messages_between_nodes_may_be_sent_on_channel_0(kind: int) -> None:
    dialer, _ = pair()
    with pytest.raises(LocalProtocolError, match="on channel 0"):
        dialer.send(0, kind, b"")


def test_only_job_frames_may_be_sent_on_a_job_channel() -> None:
    dialer, _ = pair()
    with pytest.raises(LocalProtocolError, match="not open for a frame of kind 16"):
        dialer.send(dialer.open(), RECORDS, b"")


def test_a_channel_has_to_be_open() -> None:
    dialer, _ = pair()
    with pytest.raises(LocalProtocolError, match="channel 9 is not open"):
        dialer.send(9, REQ, b"")
    assert dialer.credit(9) == 0


def test_a_frame_may_not_be_too_long() -> None:
    dialer, _ = pair()
    with pytest.raises(LocalProtocolError, match="at most 100"):
        dialer.send(0, RECORDS, b"x" * 101)


def test_too_many_jobs_are_refused_here_and_not_sent() -> None:
    dialer, acceptor = pair()
    channels = [opened(dialer, acceptor) for _ in range(4)]
    with pytest.raises(LocalProtocolError, match="4 jobs are open"):
        dialer.open()
    acceptor.open()  # the other side has its own count
    dialer.close(channels[0])
    assert dialer.open()


def test_the_channels_of_a_link_can_be_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "_MAX_CHANNEL", 3)
    dialer, _ = pair()
    assert (dialer.open(), dialer.open()) == (1, 3)
    with pytest.raises(LocalProtocolError, match="make a new one"):
        dialer.open()


@pytest.mark.parametrize(
    "limits",
    [LinkSettings(credit_bytes=64 * 1024), LinkSettings(ping_s=15.0), LinkSettings(ping_s=0.0)],
    ids=["credit", "ping too late", "ping at once"],
)
def test_settings_that_cannot_work_are_refused(limits: LinkSettings) -> None:
    with pytest.raises(LocalProtocolError):
        Mux(limits, dialer=True, rng=random.Random(1))


# --- channel 0 is bounded ------------------------------------------------------------------------------------------


def test_what_does_not_fit_into_the_control_queue_is_dropped_and_said_so() -> None:
    dialer, acceptor = pair()
    sent = [dialer.send(0, RECORDS, bytes([n]) * 80) for n in range(4)]
    assert sent == [True, True, False, False]
    assert len(carry(dialer, acceptor)) == 2
    assert dialer.send(0, RECORDS, b"x" * 80)


def test_control_goes_first_but_leaves_half_of_a_write_to_the_jobs() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    for _ in range(8):
        dialer.send(0, RECORDS, b"r" * 22)
        dialer.send(channel, BODY, b"b" * 22)
    writes = []
    while dialer.has_data:
        write = dialer.data_to_send()
        assert len(write) <= SMALL.write_bytes
        writes.append([e.kind for e in acceptor.receive(write, 0.0) if isinstance(e, Frame)])
    assert writes[0] == [RECORDS, RECORDS, BODY, BODY]
    kinds = [kind for write in writes for kind in write]
    assert kinds.count(RECORDS) == kinds.count(BODY) == 8


def test_control_alone_may_fill_a_write() -> None:
    dialer, acceptor = pair()
    for _ in range(8):
        dialer.send(0, RECORDS, b"r" * 22)
    assert len(acceptor.receive(dialer.data_to_send(), 0.0)) == 4
    assert len(carry(dialer, acceptor)) == 4


def test_a_peer_that_asks_for_answers_and_does_not_read_them_is_cut() -> None:
    _, acceptor = pair()
    acceptor.receive(frame(0, PING, b"12345678") * 16, 0.0)
    with pytest.raises(BadFrame, match="does not read them"):
        acceptor.receive(frame(0, PING, b"12345678"), 0.0)


# --- fairness ------------------------------------------------------------------------------------------------------


def test_an_upload_does_not_hold_up_the_tokens_of_others() -> None:
    dialer, acceptor = pair(LinkSettings())
    upload, tokens = opened(dialer, acceptor), opened(dialer, acceptor)
    for _ in range(3):
        dialer.send(upload, BODY, b"u" * 65536)
    dialer.send(tokens, DELTA, b"t")
    first = dialer.data_to_send()
    assert len(first) == 8 + 65536  # a frame longer than a write goes alone
    second = acceptor.receive(first, 0.0) and acceptor.receive(dialer.data_to_send(), 0.0)
    assert second == [Frame(tokens, DELTA, b"t")]
    assert len(carry(dialer, acceptor)) == 2


def test_a_long_frame_is_paid_for_in_later_turns() -> None:
    dialer, acceptor = pair(LinkSettings(credit_bytes=1024, frame_bytes=400, write_bytes=400, quantum_bytes=100))
    long, short = opened(dialer, acceptor), opened(dialer, acceptor)
    dialer.send(long, BODY, b"l" * 292)  # 300 bytes: three turns
    dialer.send(long, BODY, b"l" * 292)
    for _ in range(9):
        dialer.send(short, DELTA, b"s" * 42)  # 50 bytes: two a turn
    order = [event.channel for event in carry(dialer, acceptor) if isinstance(event, Frame)]
    assert order == [long, *[short] * 6, long, *[short] * 3]


def test_a_turn_that_the_end_of_a_write_cut_off_goes_on_in_the_next() -> None:
    dialer, acceptor = pair(LinkSettings(credit_bytes=1024, frame_bytes=400, write_bytes=100, quantum_bytes=200))
    one, two = opened(dialer, acceptor), opened(dialer, acceptor)
    for _ in range(4):
        dialer.send(one, DELTA, b"1" * 42)
        dialer.send(two, DELTA, b"2" * 42)
    order = [event.channel for event in carry(dialer, acceptor) if isinstance(event, Frame)]
    assert order == [one] * 4 + [two] * 4


# --- credit --------------------------------------------------------------------------------------------------------


def test_credit_counts_headers_and_comes_back_at_half() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    assert dialer.credit(channel) == 256 - 8
    dialer.send(channel, BODY, b"x" * 92)
    dialer.send(channel, BODY, b"x" * 92)
    assert dialer.credit(channel) == 48
    with pytest.raises(LocalProtocolError, match="credit of 48"):
        dialer.send(channel, BODY, b"x" * 41)
    carry(dialer, acceptor)
    acceptor.consumed(channel, 108)
    assert not acceptor.has_data  # less than half
    acceptor.consumed(channel, 20)
    assert carry(acceptor, dialer) == [Credited(channel)]
    assert dialer.credit(channel) == 48 + 128


def test_one_may_not_consume_what_was_not_received() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    acceptor.consumed(channel, 8)
    with pytest.raises(LocalProtocolError, match="more consumed"):
        acceptor.consumed(channel, 1)
    acceptor.consumed(99, 1_000_000)  # a channel that is gone: its driver may still be reading


def test_a_peer_that_overruns_its_credit_is_cut_and_stays_cut() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    acceptor.receive(frame(channel, BODY, b"x" * 100) * 2, 0.0)
    with pytest.raises(CreditExceeded) as first:
        acceptor.receive(frame(channel, BODY, b"x" * 100), 0.0)
    with pytest.raises(CreditExceeded) as second:
        acceptor.receive(b"", 0.0)
    assert first.value is second.value


def test_nobody_may_return_more_credit_than_was_used() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    with pytest.raises(BadFrame, match="more credit"):
        dialer.receive(frame(channel, CREDIT, struct.pack(">I", 9)), 0.0)


# --- the end of a channel ------------------------------------------------------------------------------------------


def test_a_reset_overtakes_and_discards_what_waits() -> None:
    dialer, acceptor = pair()
    channel, other = opened(dialer, acceptor), opened(dialer, acceptor)
    dialer.send(other, BODY, b"other")
    dialer.send(channel, BODY, b"x" * 90)
    dialer.send(channel, BODY, b"x" * 90)
    dialer.reset(channel, ResetCode.DEADLINE)
    dialer.reset(channel)
    assert carry(dialer, acceptor) == [Reset(channel, ResetCode.DEADLINE), Frame(other, BODY, b"other")]
    assert dialer.waiting_bytes == 0
    acceptor.reset(channel)  # crossed: nothing to say
    assert not acceptor.has_data


def test_the_acceptor_cancels_too_and_late_frames_are_dropped() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    dialer.send(channel, BODY, b"late")
    acceptor.reset(channel, 77)
    assert carry(dialer, acceptor) == []
    assert carry(acceptor, dialer) == [Reset(channel, 77)]
    with pytest.raises(LocalProtocolError):
        dialer.send(channel, BODY, b"")


def test_a_job_that_never_left_is_cancelled_without_a_word() -> None:
    dialer, _ = pair()
    channel = dialer.open()
    dialer.send(channel, REQ, b"")
    dialer.reset(channel)
    assert not dialer.has_data
    assert dialer.data_to_send() == b""


def test_a_job_of_which_only_a_part_left_is_cancelled_with_a_word() -> None:
    dialer, acceptor = pair()
    channel = dialer.open()
    for kind in (REQ, BODY):
        dialer.send(channel, kind, b"x" * 100)
    assert len(acceptor.receive(dialer.data_to_send(), 0.0)) == 2
    dialer.reset(channel)
    assert carry(dialer, acceptor) == [Reset(channel, 0)]


def test_what_waits_at_a_normal_end_still_leaves() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    acceptor.send(channel, DELTA, b"d" * 90)
    acceptor.send(channel, END, b"e" * 90)
    acceptor.close(channel)
    acceptor.close(channel)
    dialer.send(channel, BODY, b"late")
    dialer.send(channel, REQ, b"late too")
    assert carry(dialer, acceptor) == []
    assert acceptor.receive(frame(channel, CREDIT, bytes(4)), 0.0) == []
    assert [e.kind for e in carry(acceptor, dialer) if isinstance(e, Frame)] == [DELTA, END]
    assert acceptor.receive(frame(channel, RST, bytes(4)), 0.0) == []


def test_what_waits_at_a_normal_end_is_dropped_when_the_peer_cancels() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    acceptor.send(channel, END, b"e" * 90)
    acceptor.close(channel)
    dialer.reset(channel)
    assert carry(dialer, acceptor) == []
    assert not acceptor.has_data


def test_a_channel_closed_with_nothing_waiting_is_forgotten_at_once() -> None:
    dialer, acceptor = pair()
    channel = opened(dialer, acceptor)
    acceptor.close(channel)
    assert carry(acceptor, dialer) == []
    dialer.send(channel, BODY, b"late")
    assert carry(dialer, acceptor) == []


def test_frames_for_channels_that_never_were_are_dropped() -> None:
    _, acceptor = pair()
    data = frame(7, BODY, b"x") + frame(8, DELTA) + frame(7, RST, bytes(4)) + frame(8, CREDIT, b"\xff" * 4)
    assert acceptor.receive(data, 0.0) == []


# --- what the peer may not do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame(2, REQ), "not the peer's to open"),
        (frame(0, REQ), "on channel 0"),
        (frame(0, END), "on channel 0"),
        (frame(1, REQ, length=101), "101 bytes; at most 100"),
        (frame(1, RECORDS), "kind 16 on channel 1"),
        (frame(1, HELLO), "kind 0 on channel 1"),
        (frame(1, PING, bytes(8)), "kind 1 on channel 1"),
        (frame(0, PING, bytes(7)), "PING of 7 bytes"),
        (frame(0, PONG, bytes(9)), "PING of 9 bytes"),
        (frame(0, CREDIT, bytes(4)), "kind 3, 4 bytes on channel 0"),
        (frame(0, RST, bytes(4)), "kind 4, 4 bytes on channel 0"),
        (frame(1, RST, bytes(3)), "kind 4, 3 bytes on channel 1"),
    ],
)
def test_a_frame_that_is_not_allowed_ends_the_link(data: bytes, why: str) -> None:
    _, acceptor = pair()
    with pytest.raises(BadFrame, match=why):
        acceptor.receive(data, 0.0)


def test_a_peer_may_exceed_its_channels_only_by_those_whose_end_crossed() -> None:
    _, acceptor = pair()
    for number in range(6):
        acceptor.receive(frame(2 * number + 1, REQ), 0.0)
    with pytest.raises(BadFrame, match="more than 4 channels"):
        acceptor.receive(frame(13, REQ), 0.0)


def test_answers_that_the_peer_does_not_read_keep_their_places() -> None:
    _, acceptor = pair()
    for number in range(6):
        channel = 2 * number + 1
        acceptor.receive(frame(channel, REQ), 0.0)
        acceptor.send(channel, REFUSE, b"no")
        acceptor.close(channel)
    with pytest.raises(BadFrame, match="more than 4 channels"):
        acceptor.receive(frame(13, REQ), 0.0)
    _, acceptor = pair()
    for number in range(20):  # whoever reads them may go on
        channel = 2 * number + 1
        acceptor.receive(frame(channel, REQ), 0.0)
        acceptor.send(channel, REFUSE, b"no")
        acceptor.close(channel)
        if number % 2:
            acceptor.receive(frame(channel, RST, bytes(4)), 0.0)
        else:
            acceptor.data_to_send()


@pytest.mark.parametrize("how", ["written alone", "cancelled by the peer", "written in its turn"])
def test_a_channel_that_drained_gives_back_one_place_and_no_more(how: str) -> None:
    """Six places (four, and half as many again): after any number of drained channels it is still six."""
    _, acceptor = pair()
    numbers = itertools.count(1, 2)
    for channel in itertools.islice(numbers, 10):
        acceptor.receive(frame(channel, REQ), 0.0)
        acceptor.send(channel, END, b"e" * 40)
        if how == "written in its turn":  # 184 bytes wait for a write of 128, so that channels take turns
            acceptor.send(0, DIGEST, b"d" * 60)
            acceptor.send(0, DIGEST, b"d" * 60)
        acceptor.close(channel)
        if how == "cancelled by the peer":
            acceptor.receive(frame(channel, RST, bytes(4)), 0.0)
        while acceptor.has_data:
            acceptor.data_to_send()
    for channel in itertools.islice(numbers, 6):
        acceptor.receive(frame(channel, REQ), 0.0)
    with pytest.raises(BadFrame, match="more than 4 channels"):
        acceptor.receive(frame(next(numbers), REQ), 0.0)


def test_own_channels_that_drained_give_back_one_place_and_no_more() -> None:
    dialer, _ = pair()
    for _ in range(10):
        channel = dialer.open()
        dialer.send(channel, REQ, b"r")
        dialer.close(channel)
        dialer.data_to_send()
    for _ in range(4):
        dialer.open()
    with pytest.raises(LocalProtocolError, match="4 jobs are open"):
        dialer.open()


def test_channels_that_ended_make_room_for_others() -> None:
    _, acceptor = pair()
    for number in range(100):
        channel = 2 * number + 1
        acceptor.receive(frame(channel, REQ), 0.0)
        (acceptor.close if number % 2 else acceptor.reset)(channel)
        acceptor.data_to_send()


def test_a_long_frame_in_single_bytes_is_not_copied_again_and_again() -> None:
    acceptor = Mux(LinkSettings(), dialer=False, rng=random.Random(1))
    events: list[LinkEvent] = []
    for byte in frame(1, REQ, b"x" * 65536):
        events += acceptor.receive(bytes([byte]), 0.0)
    assert events == [Opened(1), Frame(1, REQ, b"x" * 65536)]


# --- life ----------------------------------------------------------------------------------------------------------


def test_a_new_link_measures_the_round_trip_at_once() -> None:
    dialer, acceptor = pair()
    assert dialer.next_deadline(50.0) == 50.0
    assert dialer.tick(50.0) == []
    assert carry(dialer, acceptor, 50.1) == []
    assert carry(acceptor, dialer, 50.25) == [Rtt(0.25)]


def test_a_pong_counts_once_and_only_for_the_last_ping() -> None:
    dialer, _ = pair()
    assert dialer.receive(frame(0, PONG, bytes(8)), 1.0) == []
    nonces = []
    for now in (1.0, 2.0):
        dialer.ping(now)
        nonces.append(dialer.data_to_send()[8:])
    first, second = nonces
    assert dialer.receive(frame(0, PONG, first) + frame(0, PONG, second) * 2, 3.0) == [Rtt(1.0)]


def test_nobody_can_answer_a_ping_before_it_came() -> None:
    dialer, _ = pair()
    seen = []
    for now in range(50):
        dialer.ping(float(now))
        seen.append(int.from_bytes(dialer.data_to_send()[8:], "big"))
    steps = {after - before for before, after in itertools.pairwise(seen)}
    assert len(set(seen)) == 50
    assert len(steps) == 49, "the next one follows from nothing that was sent"


def test_silence_is_answered_with_a_ping_and_then_with_the_end() -> None:
    dialer, acceptor = pair()
    dialer.tick(0.0)
    carry(dialer, acceptor)
    carry(acceptor, dialer, 1.0)
    assert dialer.next_deadline(1.0) == 6.0
    assert dialer.tick(5.9) == []
    assert not dialer.has_data
    assert dialer.tick(6.0) == []
    assert dialer.data_to_send()[:8] == frame(0, PING, bytes(8))[:8]
    assert dialer.next_deadline(6.0) == 11.0
    assert dialer.tick(11.0) == []
    assert dialer.next_deadline(11.0) == 16.0
    assert dialer.tick(15.9) == []
    assert dialer.tick(16.0) == [Dead()]


def test_any_frame_is_a_sign_of_life() -> None:
    dialer, _ = pair()
    dialer.tick(0.0)
    dialer.tick(5.0)
    dialer.receive(frame(0, HELLO), 14.0)
    assert dialer.next_deadline(14.0) == 19.0
    dialer.receive(frame(0, HELLO)[:5], 18.0)  # half a frame is none
    assert dialer.next_deadline(18.0) == 19.0


def test_a_busy_link_is_pinged_now_and_then_for_its_round_trip() -> None:
    dialer, _ = pair()
    dialer.tick(0.0)
    dialer.data_to_send()
    for second in range(1, 20):
        dialer.receive(frame(0, HELLO), float(second))
        assert dialer.tick(float(second)) == []
        assert not dialer.has_data
    dialer.receive(frame(0, HELLO), 20.0)
    assert dialer.tick(20.0) == []
    assert dialer.has_data
    assert dialer.tick(25.0) == []  # not silence long enough to die of: the PING of second 20 asked for nothing
    assert dialer.tick(35.0) == [Dead()]


def test_a_routine_ping_on_a_busy_link_does_not_start_the_patience() -> None:
    """The routine PINGs at 20, 40 and 60 s of a busy link ask for nothing, so no silence is counted from them."""
    dialer, _ = pair()
    dialer.tick(0.0)
    for second in range(1, 61):
        dialer.receive(frame(0, HELLO), float(second))
        assert dialer.tick(float(second)) == []
    assert dialer.next_deadline(60.0) == 65.0  # silence until then makes the first PING that is waited for
    assert dialer.tick(65.0) == []
    assert dialer.next_deadline(65.0) == 70.0  # asked again, without moving the end
    assert dialer.tick(70.0) == []
    assert dialer.tick(74.9) == []
    assert dialer.tick(75.0) == [Dead()]


def test_a_node_that_slept_asks_before_it_gives_up() -> None:
    dialer, acceptor = pair()
    dialer.tick(0.0)
    carry(dialer, acceptor)
    carry(acceptor, dialer, 0.0)
    assert dialer.tick(1000.0) == []
    carry(dialer, acceptor, 1000.0)
    assert carry(acceptor, dialer, 1000.5) == [Rtt(0.5)]


def test_a_node_that_slept_on_an_unanswered_ping_asks_again() -> None:
    dialer, acceptor = pair()
    dialer.tick(0.0)
    dialer.data_to_send()
    assert dialer.tick(5.0) == []
    carry(dialer, acceptor, 5.0)
    assert dialer.tick(100.0) == []  # 85 s late: the answer may lie unread in the kernel
    assert carry(acceptor, dialer, 100.0) == []  # the answer to the first one, whose round trip means nothing now
    assert dialer.next_deadline(100.0) == 105.0
    assert dialer.tick(105.0) == []
    assert dialer.tick(115.0) == [Dead()]


def test_a_late_tick_is_not_the_end_but_silence_after_it_is() -> None:
    dialer, _ = pair()
    dialer.tick(0.0)
    dialer.tick(5.0)
    assert dialer.tick(15.6) == []
    assert dialer.tick(25.6) == [Dead()]


# --- any bytes, any cut --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.lists(st.integers(1, 30), max_size=20))
def test_arbitrary_bytes_raise_nothing_but_remote_errors(data: bytes, cuts: list[int]) -> None:
    mux = Mux(SMALL, dialer=False, rng=random.Random(1))
    try:
        for cut in [*cuts, 400]:
            mux.receive(data[:cut], 0.0)
            data = data[cut:]
        mux.data_to_send()
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            mux.receive(b"", 0.0)


plausible = st.builds(
    frame,
    st.integers(0, 9),
    st.sampled_from([HELLO, PING, PONG, CREDIT, RST, GOAWAY, 9, RECORDS, REQ, REQ, BODY, DELTA, END]),
    st.binary(max_size=12) | st.just(bytes(4)) | st.just(bytes(8)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(plausible, max_size=40), st.data())
def test_the_cut_of_the_input_changes_nothing(frames: list[bytes], data: st.DataObject) -> None:
    """Frames that mean something, whole and in pieces: the same events, or the same error."""
    raw = b"".join(frames)
    outcomes = []
    for pieces in ([len(raw)], data.draw(st.lists(st.integers(1, 25), max_size=60))):
        mux, rest, events, error = Mux(SMALL, dialer=False, rng=random.Random(1)), raw, [], ""
        try:
            for piece in [*pieces, len(raw) + 1]:
                events += mux.receive(rest[:piece], 0.0)
                rest = rest[piece:]
        except RemoteProtocolError as e:
            error = str(e)
        outcomes.append(([] if error else events, error, b"" if error else mux.data_to_send()))
    assert outcomes[0] == outcomes[1]


class TwoMuxes(RuleBasedStateMachine):
    """Two ends joined by pipes that cut as they like, against a model of what has to arrive.

    ``sent`` holds, for each direction and channel, what has been sent and neither arrived nor been discarded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ends = pair()
        self.pipes = (bytearray(), bytearray())  # from end 0, from end 1
        self.sent: dict[tuple[int, int], deque[tuple[int, bytes]]] = {}
        self.open: tuple[set[int], set[int]] = (set(), set())
        self.unread: dict[tuple[int, int], int] = {}
        self.cancelled: set[tuple[int, int]] = set()
        self.serial = 0

    def _frame(self, end: int, channel: int, kind: int, size: int) -> None:
        self.serial += 1
        payload = self.serial.to_bytes(4, "big") + b"x" * size
        if channel == 0:
            if not self.ends[end].send(0, kind, payload):
                return
        elif len(payload) + FRAME_OVERHEAD > self.ends[end].credit(channel):
            with pytest.raises(LocalProtocolError):
                self.ends[end].send(channel, kind, payload)
            return
        else:
            assert self.ends[end].send(channel, kind, payload)
        self.sent.setdefault((end, channel), deque()).append((kind, payload))

    @rule(end=st.integers(0, 1), size=st.integers(0, 90))
    def open_a_channel(self, end: int, size: int) -> None:
        try:
            channel = self.ends[end].open()
        except LocalProtocolError:
            return
        self.open[end].add(channel)
        self._frame(end, channel, REQ, size)

    @rule(end=st.integers(0, 1), size=st.integers(0, 90))
    def send_control(self, end: int, size: int) -> None:
        self._frame(end, 0, RECORDS, size)

    @precondition(lambda self: any(self.open))
    @rule(data=st.data(), size=st.integers(0, 90))
    def send_on_a_channel(self, data: st.DataObject, size: int) -> None:
        end, channel = self._pick(data)
        self._frame(end, channel, DELTA, size)

    @precondition(lambda self: any(self.open))
    @rule(data=st.data(), code=st.integers(0, 9))
    def cancel(self, data: st.DataObject, code: int) -> None:
        end, channel = self._pick(data)
        self.ends[end].reset(channel, code)
        self.open[end].discard(channel)
        self.cancelled |= {(0, channel), (1, channel)}

    @precondition(lambda self: any(self.open))
    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        end, channel = self._pick(data)
        size = data.draw(st.integers(0, self.unread.get((end, channel), 0)))
        self.unread[end, channel] = self.unread.get((end, channel), 0) - size
        self.ends[end].consumed(channel, size)

    @rule(end=st.integers(0, 1))
    def write(self, end: int) -> None:
        write = self.ends[end].data_to_send()
        assert len(write) <= SMALL.write_bytes
        self.pipes[end].extend(write)

    @rule(end=st.integers(0, 1), size=st.integers(1, 200))
    def read(self, end: int, size: int) -> None:
        """``end`` gets a piece of what the other wrote."""
        pipe = self.pipes[1 - end]
        data = bytes(pipe[:size])
        del pipe[:size]
        for event in self.ends[end].receive(data, 0.0):
            self._check(end, event)

    def _check(self, end: int, event: LinkEvent) -> None:
        if isinstance(event, Opened):
            assert event.channel % 2 == end  # the dialler is end 0 and its channels are odd
            self.open[end].add(event.channel)
        elif isinstance(event, Frame):
            waiting = self.sent[1 - end, event.channel]
            assert waiting.popleft() == (event.kind, event.payload)  # once, and in order
            if event.channel:
                key = (end, event.channel)
                self.unread[key] = self.unread.get(key, 0) + len(event.payload) + FRAME_OVERHEAD
                assert self.unread[key] <= SMALL.credit_bytes
        elif isinstance(event, Reset):
            assert (end, event.channel) in self.cancelled
            self.open[end].discard(event.channel)

    def _pick(self, data: st.DataObject) -> tuple[int, int]:
        return data.draw(st.sampled_from([(end, c) for end in (0, 1) for c in sorted(self.open[end])]))

    @invariant()
    def credit_never_exceeds_what_was_given(self) -> None:
        for end in (0, 1):
            for channel in self.open[end]:
                assert 0 <= self.ends[end].credit(channel) <= SMALL.credit_bytes

    def teardown(self) -> None:
        """Let everything arrive: nothing is left over but what a reset discarded."""
        while any(self.pipes) or any(end.has_data for end in self.ends):
            for end in (0, 1):
                self.write(end)
                self.read(end, 1000)
        for (_, channel), waiting in self.sent.items():
            if (0, channel) not in self.cancelled:
                assert not waiting
        assert self.open[0] == self.open[1]


TestTwoMuxes = TwoMuxes.TestCase
TestTwoMuxes.settings = settings(deadline=None, max_examples=100, stateful_step_count=60)
