"""The check of an answer: what the endpoints promise passes, and nothing else."""

from __future__ import annotations

import pytest

from protocol.errors import BadFrame
from protocol.jobs.answer_check import EVENTS_PER_TOKEN, MORE_EVENTS, MOST_EVENT_BYTES, AnswerCheck

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
CHAT_EVENT = b'{"id":"x","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
USAGE = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'


def check(path: str = CHAT, body: bytes = b"{}", *, stream: bool = True, max_tokens: int = 0) -> AnswerCheck:
    return AnswerCheck(path, body, stream=stream, max_tokens=max_tokens, most_bytes=1000)


def long_event(size: int) -> bytes:
    head, tail = b'{"choices":[{"delta":{"content":"', b'"}}]}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize(
    ("path", "events"),
    [
        (CHAT, [CHAT_EVENT, CHAT_EVENT, USAGE]),
        (CHAT, [b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}']),
        (COMPLETIONS, [b'{"choices":[{"index":0,"text":"a","logprobs":null}]}', USAGE]),
        (RESPONSES, [b'{"type":"response.created","response":{}}', b'{"type":"response.output_text.delta"}']),
    ],
)
def test_streams_as_the_endpoints_have_them(path: str, events: list[bytes]) -> None:
    found = check(path)
    assert not found.begun
    assert found.take(events) == b"".join(events)
    assert found.begun
    found.end()


@pytest.mark.parametrize(
    ("path", "event"),
    [
        (CHAT, b""),
        (CHAT, b"[1]"),
        (CHAT, b'{"a":'),
        (CHAT, b"{'a':1}"),
        (CHAT, b'{"choices":{}}'),
        (CHAT, b'{"error":{"message":"pay me"}}'),
        (CHAT, b'{"choices":[1]}'),
        (CHAT, b'{"choices":[{"text":"a"}]}'),
        (CHAT, b'{"choices":[{"delta":{"content":"\xff"}}]}'),
        (CHAT, b'{"choices":[{"delta":{}}]}\n'),
        (CHAT, b'{"choices":\r[]}'),
        (CHAT, b'{"choices":[],"a":' + b"[" * 100_000 + b"}"),
        (COMPLETIONS, b'{"choices":[{"text":1}]}'),
        (RESPONSES, b'{"type":1}'),
        (RESPONSES, b'{"type":"a: b"}'),
        (RESPONSES, b"{}"),
    ],
)
def test_events_that_no_honest_peer_sends(path: str, event: bytes) -> None:
    with pytest.raises(BadFrame):
        check(path).take([event])


def test_one_wrong_event_among_others_is_found() -> None:
    with pytest.raises(BadFrame, match="an event that is not one of this endpoint"):
        check().take([CHAT_EVENT, b"{", CHAT_EVENT])


def test_a_stream_without_any_choice_is_no_answer() -> None:
    found = check()
    found.take([USAGE])
    with pytest.raises(BadFrame, match="without any choice"):
        found.end()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b' {"choices":[{"message":{"content":"a"}}]}\n'),
        (COMPLETIONS, b'{"choices":[{"text":"a"}]}'),
        (EMBEDDINGS, b'{"data":[{"embedding":[0.1]}]}'),
        (RESPONSES, b'{"output":[]}'),
    ],
)
def test_whole_answers_as_the_endpoints_have_them(path: str, body: bytes) -> None:
    found = check(path, stream=False)
    found.take([body[:9], body[9:]])
    found.end()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b""),
        (CHAT, b"garbage"),
        (CHAT, b'{"choices":[]}'),
        (CHAT, b'{"choices":[{"message":{"content":"\xff"}}]}'),
        (CHAT, b'{"choices":[{"text":"a"}]}'),
        (COMPLETIONS, b'{"choices":[]}'),
        (EMBEDDINGS, b'{"data":[]}'),
        (RESPONSES, b'{"output":{}}'),
    ],
)
def test_whole_answers_that_are_none(path: str, body: bytes) -> None:
    found = check(path, stream=False)
    found.take([body])
    with pytest.raises(BadFrame, match="an answer that is not one of this endpoint"):
        found.end()


def test_a_whole_answer_is_bounded() -> None:
    found = check(stream=False)
    found.take([bytes(1000)])
    with pytest.raises(BadFrame, match="more than 1000 bytes"):
        found.take([b"x"])


def test_an_event_is_short_unless_the_request_makes_it_long() -> None:
    check().take([long_event(MOST_EVENT_BYTES)])
    with pytest.raises(BadFrame, match="more than 16384 bytes"):
        check().take([long_event(MOST_EVENT_BYTES + 1)])
    for field in (b'{"logprobs":true}', b'{"tools":[]}', b'{"echo":true}'):
        check(body=field).take([long_event(MOST_EVENT_BYTES + 1)])
    check(RESPONSES).take([b'{"type":"response.completed","response":"' + b"x" * MOST_EVENT_BYTES + b'"}'])


@pytest.mark.parametrize(
    ("body", "choices"), [(b"{}", 1), (b'{"n":3}', 3), (b'{"best_of":2,"n":null}', 2), (b'{"n":"3"}', 1)]
)
def test_the_number_of_events_is_bounded_by_the_tokens(body: bytes, choices: int) -> None:
    found = check(body=body, max_tokens=10)
    for _ in range(EVENTS_PER_TOKEN * 10 * choices + MORE_EVENTS):
        found.take([CHAT_EVENT])
    with pytest.raises(BadFrame, match="events for at most 10 tokens"):
        found.take([CHAT_EVENT])
