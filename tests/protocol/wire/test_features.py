"""The features of a link: what both HELLOs list, whatever else a peer lists."""

from __future__ import annotations

import msgpack
import pytest

from protocol.errors import BadFrame
from protocol.wire import messages as m
from protocol.wire.features import FRESH_LOAD, OFFERED, agreed


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        (("b", "a"), ("a", "b"), ("a", "b")),
        (("a",), ("z", "a", "a"), ("a",)),
        (("a",), (), ()),
        ((), ("a",), ()),
        ((FRESH_LOAD,), (FRESH_LOAD, "of-the-future"), (FRESH_LOAD,)),
    ],
)
def test_a_link_has_what_both_list(ours: tuple[str, ...], theirs: tuple[str, ...], both: tuple[str, ...]) -> None:
    assert agreed(ours, theirs) == agreed(theirs, ours) == both


def test_what_this_version_speaks_fits_into_hello() -> None:
    said = m.Hello(1, "open", features=OFFERED)
    assert m.decode(m.HELLO, m.encode(said)) == said


def test_a_hello_of_the_first_version_lists_nothing() -> None:
    hello = m.decode(m.HELLO, msgpack.packb([1, "open", "p2pnode/0.1.0", ["/ip4/1.2.3.4/tcp/1"], "1.2.3.4"]))
    assert hello == m.Hello(1, "open", "p2pnode/0.1.0", ("/ip4/1.2.3.4/tcp/1",), "1.2.3.4", ())


@pytest.mark.parametrize("features", [["x"] * 33, ["x" * 33], [1], "x"])
def test_the_list_is_bounded(features: object) -> None:
    with pytest.raises(BadFrame):
        m.decode(m.HELLO, msgpack.packb([1, "open", "", [], "", features]))
