"""Splitting a stream into events must not depend on where the network cut it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.engine import sse
from p2pnode.engine.gauges import read
from p2pnode.engine.sse import Events, EventTooLong


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@given(st.data())
@settings(deadline=None, max_examples=100)
def test_any_cut_gives_the_same_events(newline: str, data: st.DataObject) -> None:
    text = 'data: {"a":1}\n\n: comment\n\nevent: x\ndata: {"b":\ndata: 2}\nid: 7\n\ndata:[DONE]\n\n'
    raw = text.replace("\n", newline).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    events = Events()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += events.feed(raw[start:end])
    # A lone CR at the very end may be half of a CRLF; the stream's end tells.
    found += events.feed(b"\n") if newline == "\r" else []
    assert found == [b'{"a":1}', b'{"b":2}', b"[DONE]"]


def test_an_endless_event_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MOST_EVENT_BYTES", 100)
    events = Events()
    events.feed(b"data: xxxx" * 9)
    with pytest.raises(EventTooLong):
        events.feed(b"data: xxxx" * 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"sglang:num_running_reqs 2\nsglang:num_queue_reqs 1\nsglang:token_usage 0.5\n", (2, 1, 0.5)),
        (b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n", (1, 0, 0.0)),
        (b'vllm:num_requests_running{model_name="a b } c"} 5 1700000000\nvllm:num_requests_waiting junk\n', (5, 0, 0)),
    ],
)
def test_gauges_of_every_engine(text: bytes, expected: tuple[int, int, float]) -> None:
    gauges = read(text)
    assert gauges is not None
    assert (gauges.running, gauges.waiting, gauges.kv) == expected


def test_what_is_not_a_model_server_has_no_gauges() -> None:
    assert read(b"go_goroutines 5\n\xff\n") is None
