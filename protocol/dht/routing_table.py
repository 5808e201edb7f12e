"""The routing table of the DHT: the peers that proved their key on a link, sorted by their distance to this node.

Keys are BLAKE2b-256 of a peer id or a model fingerprint, distances their XOR (Kademlia).  Bucket ``i`` holds peers
whose key shares exactly ``i`` leading bits with ours, at most ``k`` of them, oldest first.  A contact of long standing
is likely to stay, so a newcomer never replaces it.  If the bucket is full, or full of the newcomer's network group, the
newcomer waits as a replacement.

Not here: peers that others only named; a look-up tries those (``lookup``).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from protocol.ids import ModelId, PeerId
from protocol.subnet import limited

KEY_BYTES: Final = 32
_BITS: Final = 8 * KEY_BYTES
#: Keys that are remembered (guess: 2 MB).
_KEYS: Final = 16_384
#: Queries in a row that a contact may leave unanswered until it is dropped (guess: one may be lost to a busy peer).
_MOST_FAILURES: Final = 2


@functools.lru_cache(_KEYS)
def peer_key(peer: PeerId) -> bytes:
    """Where a peer is in the key space."""
    return hashlib.blake2b(peer, digest_size=KEY_BYTES).digest()


def model_key(model: ModelId) -> bytes:
    """Where the providers of a model are kept."""
    return hashlib.blake2b(model, digest_size=KEY_BYTES).digest()


def as_number(key: bytes) -> int:
    """A key as the number whose XOR is the distance."""
    return int.from_bytes(key, "big")


@functools.lru_cache(_KEYS)
def peer_number(peer: PeerId) -> int:
    """The key of a peer as a number."""
    return as_number(peer_key(peer))


@dataclass(slots=True)
class TableEntry:
    """A peer that proved its key, its listen addresses, and its record of answers since."""

    peer: PeerId
    number: int
    addrs: tuple[str, ...]
    group: str
    seen: float
    failures: int = 0


class _KBucket:
    __slots__ = ("contacts", "looked_up", "spare")

    def __init__(self) -> None:
        self.contacts: dict[PeerId, TableEntry] = {}  # oldest first
        self.spare: dict[PeerId, TableEntry] = {}
        self.looked_up = -math.inf


class RoutingTable:
    """All contacts of one node."""

    def __init__(self, me: PeerId, k: int, per_group: int) -> None:
        self._number = as_number(peer_key(me))
        self._me = me
        self._k = k
        self._per_group = per_group
        self._buckets: dict[int, _KBucket] = {}

    def __len__(self) -> int:
        return sum(len(bucket.contacts) for bucket in self._buckets.values())

    def __contains__(self, peer: PeerId) -> bool:
        return self.get(peer) is not None

    def get(self, peer: PeerId) -> TableEntry | None:
        """The contact, if it has a place."""
        bucket = self._buckets.get(self.index(peer_number(peer)))
        return bucket.contacts.get(peer) if bucket is not None else None

    def index(self, number: int) -> int:
        """How many leading bits a key shares with ours."""
        return _BITS - (number ^ self._number).bit_length()

    def seen(self, peer: PeerId, addrs: tuple[str, ...], group: str, now: float) -> None:
        """A peer proved its key: add its contact, or update it."""
        number = peer_number(peer)
        if peer == self._me:
            return
        bucket = self._buckets.setdefault(self.index(number), _KBucket())
        fresh = TableEntry(peer, number, addrs, group, now)
        if peer in bucket.contacts:
            bucket.contacts[peer] = fresh  # keeps its place: the order is that of the first contact
        elif self._has_room(bucket, group):
            bucket.spare.pop(peer, None)
            bucket.contacts[peer] = fresh
        else:
            bucket.spare.pop(peer, None)
            bucket.spare[peer] = fresh
            if len(bucket.spare) > self._k:
                del bucket.spare[next(iter(bucket.spare))]

    def _has_room(self, bucket: _KBucket, group: str) -> bool:
        if len(bucket.contacts) >= self._k:
            return False
        same = sum(contact.group == group for contact in bucket.contacts.values()) if limited(group) else 0
        return same < self._per_group

    def answered(self, peer: PeerId, now: float) -> None:
        """A contact answered a query."""
        contact = self.get(peer)
        if contact is not None:
            contact.failures = 0
            contact.seen = now

    def failed(self, peer: PeerId, unreachable: bool) -> None:
        """A contact left a query unanswered, or could not be reached at all; the latter is dropped at once."""
        bucket = self._buckets.get(self.index(peer_number(peer)))
        if bucket is None:
            return
        if unreachable:
            bucket.spare.pop(peer, None)
        contact = bucket.contacts.get(peer)
        if contact is None:
            return
        contact.failures += 1
        if unreachable or contact.failures >= _MOST_FAILURES:
            del bucket.contacts[peer]
            self._promote(bucket)

    def _promote(self, bucket: _KBucket) -> None:
        """Give the free place to the replacement that was seen last and whose group has room."""
        for spare in reversed(list(bucket.spare.values())):
            if self._has_room(bucket, spare.group):
                del bucket.spare[spare.peer]
                bucket.contacts[spare.peer] = spare
                return

    def closest(self, target: bytes, count: int) -> list[TableEntry]:
        """The contacts whose keys are closest to the target, closest first."""
        number = as_number(target)
        here = self.index(number)
        found = self._by_distance((here,), number)
        if len(found) < count:  # peers that share more bits with us than the target are as far from it as we are
            found += self._by_distance([index for index in self._buckets if index > here], number)
        for index in range(here - 1, -1, -1):
            if len(found) >= count:
                break
            found += self._by_distance((index,), number)
        return found[:count]

    def _by_distance(self, indices: Iterable[int], number: int) -> list[TableEntry]:
        buckets = [self._buckets[index] for index in indices if index in self._buckets]
        contacts = [contact for bucket in buckets for contact in bucket.contacts.values()]
        contacts.sort(key=lambda contact: contact.number ^ number)
        return contacts

    def looked_up(self, target: bytes, now: float) -> None:
        """A look-up of this target refreshes the bucket that it falls into."""
        bucket = self._buckets.get(self.index(as_number(target)))
        if bucket is not None:
            bucket.looked_up = now

    def restore(self, looked_up: Callable[[], float]) -> None:
        """Go on as a table that has been refreshed: each bucket in use was looked up at the time that it is given."""
        for bucket in self._buckets.values():
            bucket.looked_up = looked_up()

    def stalest(self, before: float) -> int | None:
        """The bucket that has gone longest without a look-up, if its last one was before that time."""
        due = [(bucket.looked_up, index) for index, bucket in self._buckets.items() if bucket.looked_up <= before]
        return min(due)[1] if due else None

    def key_in(self, index: int, entropy: int) -> bytes:
        """A key that falls into the bucket; ``entropy`` is a random number of 256 bits."""
        below = _BITS - index - 1
        number = self._number ^ (1 << below) ^ (entropy & ((1 << below) - 1))
        return number.to_bytes(KEY_BYTES, "big")
