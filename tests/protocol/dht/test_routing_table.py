"""The routing table: old contacts keep their place, groups are limited, and the closest are the closest."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.dht.routing_table import RoutingTable, as_number, peer_key
from protocol.ids import PeerId
from protocol.subnet import limited
from tests.protocol.dht.one_node import name


def same_bucket(table: RoutingTable, count: int) -> list[PeerId]:
    peers = (name(number) for number in range(1000, 9999))
    return [peer for peer in peers if table.index(as_number(peer_key(peer))) == 0][:count]


def test_old_contacts_keep_their_place_and_newcomers_wait() -> None:
    table = RoutingTable(name(1), k=3, per_group=2)
    peers = same_bucket(table, 10)
    for peer in peers:
        table.seen(peer, ("a",), "", 1.0)
    assert [peer for peer in peers if peer in table] == peers[:3]
    table.seen(peers[0], ("b",), "", 2.0)
    contact = table.get(peers[0])
    assert contact is not None
    assert contact.addrs == ("b",)
    table.failed(peers[9], unreachable=True)
    table.failed(peers[0], unreachable=True)
    assert [peer for peer in peers if peer in table] == [*peers[1:3], peers[8]]  # whoever was seen last
    table.failed(peers[1], unreachable=False)
    table.answered(peers[1], 3.0)
    table.failed(peers[1], unreachable=False)
    assert peers[1] in table
    table.failed(peers[1], unreachable=False)
    assert peers[1] not in table
    table.answered(peers[1], 4.0)
    table.failed(name(1), unreachable=False)
    assert len(table) == 3


def test_a_network_group_gets_a_few_places_only_unless_it_is_private() -> None:
    table = RoutingTable(name(1), k=8, per_group=2)
    peers = same_bucket(table, 12)
    for peer in peers[:5]:
        table.seen(peer, ("a",), "203.0.113", 1.0)
    assert len(table) == 2
    for peer in peers[5:8]:
        table.seen(peer, ("a",), "127.0.0", 1.0)
    assert len(table) == 5
    table.failed(peers[5], unreachable=True)  # the replacements are all of the group that is full
    assert len(table) == 4
    table.failed(peers[0], unreachable=True)
    assert peers[4] in table
    assert [contact.peer for contact in table.closest(peer_key(peers[4]), 1)] == [peers[4]]  # no other bucket is asked
    table.seen(name(1), ("a",), "", 1.0)  # oneself
    assert len(table) == 4


def test_a_bucket_without_replacements_shrinks() -> None:
    table = RoutingTable(name(1), k=8, per_group=2)
    (peer,) = same_bucket(table, 1)
    table.seen(peer, ("a",), "", 1.0)
    table.failed(peer, unreachable=True)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("group", "scarce"),
    [
        ("", False),
        ("127.0.0.0/24", False),
        ("10.1.2.0/24", False),
        ("172.20.1.0/24", False),
        ("fe80::/48", False),
        ("172.40.1.0/24", True),
        ("203.0.113.0/24", True),
        ("2001:db8:1::/48", True),
    ],
)
def test_which_groups_are_scarce(group: str, scarce: bool) -> None:
    assert limited(group) is scarce


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(2, 10_000), unique=True, max_size=60), st.binary(min_size=32, max_size=32))
def test_the_closest_are_the_closest(numbers: list[int], target: bytes) -> None:
    table = RoutingTable(name(1), k=100, per_group=100)
    for number in numbers:
        table.seen(name(number), ("a",), "", 1.0)
    closest = table.closest(target, 10)
    distances = [contact.number ^ as_number(target) for contact in closest]
    everyone = sorted(as_number(peer_key(name(number))) ^ as_number(target) for number in numbers)
    assert distances == everyone[:10]
    assert all(a < b for a, b in pairwise(distances))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 255), st.integers(0, (1 << 256) - 1))
def test_a_random_key_of_a_bucket_falls_into_it(index: int, entropy: int) -> None:
    table = RoutingTable(name(1), k=20, per_group=4)
    assert table.index(as_number(table.key_in(index, entropy))) == index


def test_a_restored_table_refreshes_the_bucket_that_was_looked_up_longest_ago() -> None:
    table = RoutingTable(name(1), k=3, per_group=2)
    for number in range(2, 60):
        table.seen(name(number), ("a",), "", 1.0)
    times = iter(range(100, 0, -1))
    table.restore(lambda: float(next(times)))
    assert table.stalest(0.0) is None
    oldest = table.stalest(100.0)
    assert oldest is not None
    table.looked_up(table.key_in(oldest, 0), 200.0)
    assert table.stalest(100.0) != oldest
