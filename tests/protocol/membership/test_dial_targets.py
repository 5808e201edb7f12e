"""One address is dialled once a minute, whoever names it, until it has proven a key."""

from __future__ import annotations

import pytest

from protocol.ids import PeerId, peer_text
from protocol.membership.dial_targets import REMEMBERED, DialTargets

ALICE, BOB = PeerId(b"a" * 32), PeerId(b"b" * 32)
VICTIM = "/ip4/203.0.113.1/tcp/80"
OWN = ("/ip4/198.51.100.7/tcp/4411",)


def admits(targets: DialTargets, address: str, now: float, peer: PeerId = ALICE, own: tuple[str, ...] = OWN) -> bool:
    return targets.admit(peer, (address,), own, now) == (address,)


def test_all_identities_that_name_a_target_share_one_dial_a_minute() -> None:
    targets = DialTargets(60.0)
    assert admits(targets, VICTIM, 0.0)
    assert not any(admits(targets, f"{VICTIM}/p2p/{n}", 59.9, PeerId(bytes([n]) * 32)) for n in range(64))
    assert admits(targets, f"{VICTIM}/p2p/1", 60.0, BOB)
    assert not admits(targets, VICTIM, 119.0)


def test_another_port_is_another_target() -> None:
    targets = DialTargets(60.0)
    assert admits(targets, VICTIM, 0.0)
    assert admits(targets, "/ip4/203.0.113.1/tcp/81", 0.0)


def test_only_the_addresses_that_may_be_dialled_are_given_in_their_order() -> None:
    targets = DialTargets(60.0)
    first, second = "/ip4/203.0.113.1/tcp/1", "/ip4/203.0.113.2/tcp/1"
    assert targets.admit(ALICE, (first,), OWN, 0.0) == (first,)
    assert targets.admit(ALICE, (first, second), OWN, 1.0) == (second,)
    assert targets.admit(ALICE, (first, second), OWN, 61.0) == (first, second)


def test_a_peer_that_proved_its_key_at_an_address_is_dialled_there_without_a_pause() -> None:
    targets = DialTargets(60.0)
    targets.linked(ALICE, "203.0.113.1", f"{VICTIM}/p2p/alice")
    assert all(admits(targets, VICTIM, float(second)) for second in range(3))
    assert admits(targets, VICTIM, 3.0, BOB), "perhaps the machine has a new key"
    assert not admits(targets, VICTIM, 62.0, BOB)
    assert admits(targets, VICTIM, 62.0, ALICE)
    targets.linked(BOB, "203.0.113.1", VICTIM)
    assert admits(targets, VICTIM, 62.0, BOB)
    assert not admits(targets, VICTIM, 62.0, ALICE), "the address is now the other one's"


def test_a_peer_whose_address_others_claim_stays_in_reach() -> None:
    targets = DialTargets(60.0)
    assert admits(targets, VICTIM, 0.0, BOB)
    targets.proven(ALICE, f"{VICTIM}/p2p/bob")  # the handshake showed who is there
    assert not any(admits(targets, VICTIM, 59.0, PeerId(bytes([n]) * 32)) for n in range(64))
    assert admits(targets, VICTIM, 59.0, ALICE)


def test_seeds_and_addresses_without_a_key_are_the_operators_own() -> None:
    targets = DialTargets(60.0, (f"{VICTIM}/p2p/{peer_text(ALICE)}", "/ip4/10.0.0.1/tcp/1"))
    assert all(admits(targets, VICTIM, 0.0, ALICE) for _ in range(3))
    assert [admits(targets, VICTIM, 0.0, BOB) for _ in range(3)] == [True, False, False], "another peer may claim it"
    assert admits(targets, "/ip4/10.0.0.1/tcp/1", 0.0), "the range of a seed is the operator's own"
    other = ("/ip4/203.0.113.9/tcp/1",)
    assert all(targets.admit(None, other, OWN, 0.0) == other for _ in range(3))


@pytest.mark.parametrize(
    "address", ["/ip4/127.0.0.1/tcp/22", "/ip4/10.1.2.3/tcp/1", "/ip4/192.168.1.1/tcp/80", "/ip6/fd00::1/tcp/1"]
)
def test_private_addresses_are_dialled_only_inside_the_same_range(address: str) -> None:
    assert not admits(DialTargets(60.0), address, 0.0)
    assert not admits(DialTargets(60.0), address, 0.0, own=("/ip4/172.16.0.1/tcp/1", *OWN))
    assert admits(DialTargets(60.0), address, 0.0, own=(*OWN, f"{address}1"))
    assert admits(DialTargets(60.0, (f"{address}1",)), address, 0.0), "a seed is there"
    met = DialTargets(60.0)
    met.linked(BOB, address.split("/")[2])
    assert admits(met, address, 0.0), "a peer has dialled us from there"


def test_names_and_public_addresses_need_no_range() -> None:
    assert admits(DialTargets(60.0), "/dns4/a.example/tcp/1", 0.0)
    assert admits(DialTargets(60.0), "/ip6/2001:db8::1/tcp/1", 0.0)


def test_what_is_remembered_is_bounded() -> None:
    targets = DialTargets(60.0)
    assert admits(targets, VICTIM, 0.0)
    for port in range(REMEMBERED):
        assert admits(targets, f"/ip4/203.0.113.2/tcp/{port}", 0.0)
    assert admits(targets, VICTIM, 0.0), "it was dialled longest ago and is forgotten"
