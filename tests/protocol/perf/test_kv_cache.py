"""The KV cache: what is shared is counted once, what nobody uses is kept as long as there is room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from protocol.perf.kv_cache import MOST_IDLE, KvCache, chain

A = chain(0, (1, 2, 3))


def test_a_block_is_itself_and_all_before_it() -> None:
    other = chain(0, (9, 2, 3))
    assert not set(A) & set(other)
    assert chain(0, (1, 2, 7))[:2] == A[:2]
    assert not set(chain(1, (1, 2, 3))) & set(A)
    assert chain(0, ()) == ()


def test_what_is_shared_is_counted_once_and_freed_with_its_last_user() -> None:
    kv = KvCache()
    kv.pin(A, 10.0)
    kv.pin(A[:2], 10.0)
    assert (kv.pinned_bytes, kv.unpinned(A), kv.known(A)) == (30.0, 0, 3)
    kv.unpin(A, 10.0, written=3)
    assert (kv.pinned_bytes, kv.idle_bytes) == (20.0, 10.0)
    kv.unpin(A[:2], 10.0, written=2)
    assert (kv.pinned_bytes, kv.idle_bytes, kv.known(A)) == (0.0, 30.0, 3)
    kv.pin(A, 10.0)
    assert (kv.pinned_bytes, kv.idle_bytes) == (30.0, 0.0)


def test_what_was_not_written_is_not_remembered() -> None:
    kv = KvCache()
    kv.pin(A, 10.0)
    kv.unpin(A, 10.0, written=1)
    assert (kv.known(A), kv.idle_bytes) == (1, 10.0)


def test_the_longest_unused_goes_first_and_of_a_prompt_its_end() -> None:
    kv = KvCache()
    old, new = chain(0, (1, 2)), chain(0, (5, 6))
    for keys in (old, new):
        kv.pin(keys, 10.0)
        kv.unpin(keys, 10.0, written=2)
    kv.trim(30.0)
    assert (kv.known(old), kv.known(new)) == (1, 2)
    kv.trim(15.0)
    assert (kv.known(old), kv.known(new)) == (0, 1)
    kv.trim(-1.0)
    assert kv.idle_bytes == 0.0


def test_even_endless_memory_does_not_remember_for_ever() -> None:
    kv = KvCache()
    keys = chain(0, range(MOST_IDLE + 5))
    kv.pin(keys, 1.0)
    kv.unpin(keys, 1.0, written=len(keys))
    kv.trim(float("inf"))
    assert kv.known(keys) == MOST_IDLE


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=4), st.booleans(), st.integers(0, 60)), max_size=30))
@hypothesis_settings(deadline=None, max_examples=60)
def test_bytes_are_those_of_the_blocks_that_are_held(steps: list[tuple[list[int], bool, int]]) -> None:
    kv, held = KvCache(), []
    for blocks, leave, room in steps:
        keys = chain(0, blocks)
        if leave and held:
            kv.unpin(held.pop(0), 10.0, written=4)
        else:
            kv.pin(keys, 10.0)
            held.append(keys)
        kv.trim(room)
        assert kv.pinned_bytes == 10.0 * len({key for keys in held for key in keys})
        assert 0 <= kv.idle_bytes <= room
        assert all(kv.known(keys) == len(keys) for keys in held)
