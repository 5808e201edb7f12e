"""Providers of names beyond the view: what the DHT said is kept for a while, and who led nowhere is left out."""

from __future__ import annotations

from protocol import PROTOCOL_VERSION
from protocol.effects import Found
from protocol.ids import PeerId, name_key
from protocol.jobs.providers import FOUND_S, MISSED_S, MOST_MISSED, MOST_NAMES, UNKNOWN_S, Providers, addresses_in
from protocol.statements.adverts import Advert, Provider
from protocol.statements.envelope import Envelope, statement
from protocol.statements.keys import Ed25519Signer

SIGNERS = [Ed25519Signer(bytes([number]) * 32) for number in range(1, 4)]
ME, A, B = (signer.peer_id for signer in SIGNERS)


def provider(number: int, *addrs: str) -> Envelope:
    return statement(SIGNERS[number], Provider(name_key("m"), addrs), (1, 1), 1e9, 3600)


def found(*envelopes: Envelope) -> Found:
    return Found(1, envelopes, (), 1)


def test_an_answer_holds_for_a_while() -> None:
    providers = Providers(ME)
    assert providers.known("m", 0.0) is None
    providers.found("m", found(provider(1, "/ip4/10.0.0.1/tcp/1"), provider(0), provider(2)), 0.0)
    assert providers.known("m", FOUND_S - 1) == {A: ("/ip4/10.0.0.1/tcp/1",), B: ()}, "without this node"
    assert providers.known("m", FOUND_S) is None
    providers.found("m", found(provider(0)), 100.0)
    assert providers.known("m", 100 + UNKNOWN_S - 1) == {}
    assert providers.known("m", 100 + UNKNOWN_S) is None
    providers.none_found("m", 200.0)
    assert providers.known("m", 201.0) == {}
    providers.found("m", found(provider(1)), 202.0)
    assert providers.known("m", 203.0) == {A: ()}, "it came late"


def test_who_could_not_be_reached_is_absent_for_a_while() -> None:
    providers = Providers(ME)
    providers.missed(A, 0.0)
    providers.missed(B, 0.0)
    providers.found("m", found(provider(1), provider(2)), 1.0)
    assert providers.known("m", 2.0) == {}
    providers.reached(B)
    assert providers.known("m", 2.0) == {B: ()}
    providers.found("m", found(provider(1)), MISSED_S)
    assert providers.known("m", MISSED_S) == {A: ()}


def test_what_is_remembered_is_bounded_the_newest_longest() -> None:
    providers = Providers(ME)
    for number in range(MOST_NAMES):
        providers.none_found(f"m{number}", 0.0)
    providers.none_found("m0", 0.0)
    providers.none_found("one more", 0.0)
    assert providers.known("m0", 1.0) == {}
    assert providers.known("m1", 1.0) is None
    assert providers.known("m2", 1.0) == {}
    providers.missed(A, 0.0)
    providers.missed(B, 0.0)
    for number in range(MOST_MISSED - 1):
        providers.missed(PeerId(number.to_bytes(32, "big")), 0.0)
    providers.found("m", found(provider(1), provider(2)), 0.0)
    assert providers.known("m", 1.0) == {A: ()}


def test_addresses_come_from_contacts_and_from_the_peers_own_statements_only() -> None:
    own = Advert(PROTOCOL_VERSION, addrs=("/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/1"))
    other = Advert(PROTOCOL_VERSION, addrs=("/ip4/10.0.0.9/tcp/1",))
    envelopes = (
        provider(1, "/ip4/10.0.0.4/tcp/1"),
        statement(SIGNERS[1], own, (1, 1), 1e9, 3600),
        statement(SIGNERS[2], other, (1, 1), 1e9, 3600),
    )
    contacts = ((B, ("/ip4/10.0.0.8/tcp/1",)), (A, ("/ip4/10.0.0.3/tcp/1", "/ip4/10.0.0.1/tcp/1")))
    given = Found(1, envelopes, contacts, 2)
    assert addresses_in(given, A) == tuple(f"/ip4/10.0.0.{host}/tcp/1" for host in (3, 1, 4, 2))
    assert addresses_in(given, ME) == ()
