"""What is kept for others is bounded per key, per group and in all."""

from __future__ import annotations

from protocol.dht.record_store import RecordStore, record_key
from protocol.dht.routing_table import as_number, model_key, peer_key
from protocol.settings import DhtSettings
from tests.protocol.dht.one_node import MODEL, NOW, name, provider


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
