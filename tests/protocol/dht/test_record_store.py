"""What is kept for others is bounded per key, per group and in all."""

from __future__ import annotations

import pytest

from protocol.dht.record_store import RecordStore, record_key, validate
from protocol.dht.routing_table import as_number, model_key, peer_key
from protocol.errors import BadEnvelope, StaleStatement
from protocol.ids import ModelId
from protocol.settings import DhtSettings
from tests.protocol.dht.one_node import MODEL, NOW, WALL, name, provider


def test_a_shelf_is_bounded_per_key_and_per_group() -> None:
    shelf = RecordStore(name(1), DhtSettings(store_per_key=8))
    key = model_key(MODEL)
    taken = [shelf.put(key, provider(number), "203.0.113", NOW, NOW + 60) for number in range(2, 6)]
    assert taken == [True, True, False, False]
    taken = [shelf.put(key, provider(number), f"203.0.{number}", NOW, NOW + 60) for number in range(6, 14)]
    assert taken == [True] * 6 + [False] * 2
    assert shelf.put(key, provider(2, seq=2), "203.0.113", NOW, NOW + 60)  # a newer version needs no room
    assert shelf.put(key, provider(20), "", NOW + 60, NOW + 120)  # the others have expired


def test_a_full_shelf_gives_up_the_keys_farthest_from_its_own() -> None:
    shelf = RecordStore(name(1), DhtSettings(store_keys=4))
    mine = as_number(peer_key(name(1)))
    items = sorted(
        (provider(2, model=bytes([n]) * 16) for n in range(12)), key=lambda e: as_number(record_key(e)) ^ mine
    )
    near, far = items[:4], items[4:]
    for envelope in far[:4]:
        assert shelf.put(record_key(envelope), envelope, "", NOW, NOW + 60)
    assert not shelf.put(record_key(far[4]), far[4], "", NOW, NOW + 60)
    for envelope in near:
        assert shelf.put(record_key(envelope), envelope, "", NOW, NOW + 60)
    assert [len(shelf.get(record_key(envelope), NOW)) for envelope in items] == [1] * 4 + [0] * 8
    assert (len(shelf), shelf.statements) == (4, 4)


def test_a_shelf_is_bounded_in_all() -> None:
    shelf = RecordStore(name(1), DhtSettings(store_keys=2))
    envelopes = [provider(number) for number in range(2, 12)]
    taken = [shelf.put(model_key(MODEL), envelope, "", NOW, NOW + 60) for envelope in envelopes]
    assert taken == [True] * 8 + [False] * 2


def test_statements_are_counted_as_they_come_are_renewed_and_expire() -> None:
    shelf = RecordStore(name(1), DhtSettings())
    key, other = model_key(MODEL), model_key(ModelId(b"n" * 16))
    story = []
    for number, until in ((2, NOW + 10), (3, NOW + 10), (4, NOW + 20)):
        shelf.put(key, provider(number), "", NOW, until)
        story.append(shelf.statements)
    shelf.put(key, provider(4, seq=2), "", NOW, NOW + 20)  # a newer version of one
    shelf.put(other, provider(2, model=b"n" * 16), "", NOW, NOW + 30)
    story.append(shelf.statements)
    for now in (NOW + 9, NOW + 10, NOW + 20, NOW + 30):
        shelf.expire(now)
        story.append(shelf.statements)
    assert story == [1, 2, 3, 4, 4, 2, 1, 0]
    assert len(shelf) == 0


def test_a_statement_is_believed_under_its_own_key_for_the_rest_of_its_life() -> None:
    envelope = provider(2, ttl=3600)
    assert validate(model_key(MODEL), envelope, WALL + 600, 120.0) == pytest.approx(3120.0)
    with pytest.raises(BadEnvelope, match="not its own"):
        validate(model_key(ModelId(b"n" * 16)), envelope, WALL, 120.0)
    with pytest.raises(StaleStatement):
        validate(model_key(MODEL), envelope, WALL + 3720, 120.0)
