"""Reaching a peer: what is dialled, and when the DHT is asked."""

from __future__ import annotations

from protocol.jobs.reach import DialThese, FindAddrs, Reach, Unreached

OLD, NEW = "/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/1"


def test_a_refused_dial_ends_it_at_once_while_others_are_left() -> None:
    reach = Reach((OLD, NEW, OLD), last=False)
    assert reach.begin() == DialThese((OLD, NEW))
    assert reach.failed("refused") == Unreached("refused")


def test_the_last_peer_is_looked_up_once() -> None:
    reach = Reach((OLD,), last=True)
    reach.begin()
    assert reach.failed("refused") == FindAddrs()
    assert reach.found((OLD, NEW, NEW)) == DialThese((NEW,))
    assert reach.failed("no answer") == Unreached("no answer")


def test_addresses_that_were_dialled_in_vain_are_not_dialled_again() -> None:
    reach = Reach((OLD,), last=True)
    reach.begin()
    reach.failed("refused")
    assert reach.found((OLD,)) == Unreached("refused")


def test_without_addresses_only_a_look_up_can_help() -> None:
    assert Reach((), last=False).begin() == Unreached("none of its addresses is known")
    reach = Reach((), last=True)
    assert reach.begin() == FindAddrs()
    assert reach.found(()) == Unreached("none of its addresses is known")
