"""Token usage: requested in every stream, passed on if the caller asked for it, counted if the engine does not."""

from __future__ import annotations

import msgspec
import pytest

from p2pnode.engine.base import CHAT, COMPLETIONS, RESPONSES
from p2pnode.jobs.usage import Tally, asking_for_usage
from tests.p2pnode.jobs.fake_workers import piece, usage_piece

A, B = piece("a"), piece("b")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1}', {"a": 1, "stream_options": {"include_usage": True}}),
        (b"{ } ", {"stream_options": {"include_usage": True}}),
        (
            b'{"stream_options":{"include_usage":false,"x":1}}',
            {"stream_options": {"include_usage": True, "x": 1}},
        ),
        (b'{"stream_options":null}', {"stream_options": {"include_usage": True}}),
    ],
)
def test_streams_are_asked_for_their_usage(before: bytes, after: object) -> None:
    assert msgspec.json.decode(asking_for_usage(COMPLETIONS, before)) == after
    assert asking_for_usage(RESPONSES, before) == before


@pytest.mark.parametrize("odd", [b"", b'{"stream_options":7}', b'{"stream_options"}'])
def test_what_cannot_be_read_is_left_to_the_engine(odd: bytes) -> None:
    assert asking_for_usage(CHAT, odd) == odd


def test_the_tally_takes_out_only_what_was_not_asked_for() -> None:
    tally = Tally(CHAT, True, False)
    spoken = b'{"choices":[{"delta":{"content":"\\"usage\\":{"}}]}'
    both = b'{"choices":[{}],"usage": {"prompt_tokens":1,"completion_tokens":1}}'
    broken = b'{"usage":{"prompt_tokens":"x"}}'
    assert tally.pass_on([spoken, both, broken]) == [spoken, both, broken]
    assert tally.tokens() == (1, 1)
    assert tally.pass_on([A, usage_piece(3, 4)]) == [A]
    assert tally.tokens() == (3, 4)
    assert Tally(CHAT, True, True).pass_on([usage_piece(3, 4)]) == [usage_piece(3, 4)]


def test_the_tally_reads_responses_and_counts_what_nobody_counted() -> None:
    tally = Tally(RESPONSES, True, False)
    done = b'{"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":6}}}'
    assert tally.pass_on([done]) == [done]
    assert tally.tokens() == (5, 6)
    silent = Tally(CHAT, True, False)
    silent.pass_on([A, B])
    assert silent.tokens() == (0, 2)
    huge = Tally(CHAT, False, False)
    huge.pass_on([b'{"usage":{"prompt_tokens":1}}'])
    huge.pass_on([b" " * (2 << 20)])
    assert huge.tokens() == (0, 0)
