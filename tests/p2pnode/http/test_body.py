"""What is read of a body, and what is refused, without a server."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.http.body import MOST_DEPTH, check_depth, prompt_tokens, read, without_provider
from p2pnode.http.errors import ApiError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(JSON, st.booleans())
def test_everything_but_depth_passes(value: Any, ascii_only: bool) -> None:
    body = json.dumps({"model": "m", "messages": [{}], "x": value}, ensure_ascii=ascii_only)
    if "\\ud" in body:
        return
    try:
        raw = body.encode()
    except UnicodeEncodeError:
        return
    assert read(raw, "messages").model == "m"


@pytest.mark.parametrize("levels", [MOST_DEPTH - 1, MOST_DEPTH, MOST_DEPTH + 1, 100_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_depth_is_counted_right(levels: int, brackets: str) -> None:
    opening, closing = brackets[:-1], brackets[-1]
    body = (opening * levels + "1" + closing * levels).encode()
    if levels <= MOST_DEPTH:
        check_depth(body)
    else:
        with pytest.raises(ApiError, match="nested deeper"):
            check_depth(body)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200), st.integers(0, 70))
def test_brackets_in_strings_are_no_depth_and_rubbish_is_survived(rubbish: bytes, levels: int) -> None:
    check_depth(json.dumps({"x": '\\"[{' * 100}).encode())
    with contextlib.suppress(ApiError):
        read(b"[" * levels + rubbish, "messages")


def test_a_wide_body_is_not_deep() -> None:
    check_depth(b"[" + b"[],{}," * 100_000 + b"1]")


def test_the_last_of_two_equal_fields_counts_as_for_engines() -> None:
    assert read(b'{"model":"a","messages":[{}],"model":"b"}', "messages").model == "b"


def test_prompts_are_measured_by_their_bytes_and_images_at_a_rate() -> None:
    text = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 4000}]}).encode()
    assert 1000 <= prompt_tokens(read(text, "messages")) <= 1020
    url = "data:image/png;base64," + "A" * 1_000_000
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    body = json.dumps({"model": "m", "messages": [image, image]}).encode()
    assert 2048 <= prompt_tokens(read(body, "messages")) <= 2120


def test_taking_out_the_provider_leaves_the_bytes_of_the_rest() -> None:
    body = b'{"a": 1.0e5,"provider":{"x":[1]}, "b" : "h\\u00e9" ,"c":{ "d" : [ 1 ] }}'
    assert without_provider(body) == b'{"a":1.0e5,"b":"h\\u00e9","c":{ "d" : [ 1 ] }}'
