"""The statements that a node stores for others in the DHT, each under the key where peers look for it.

An advert belongs under the key of its author, a provider statement under the key of its model.  The store keeps no
other kind.  It keeps one statement per author and key, the newest version, and at most for its ttl on our clock.  When
the store is full, it drops the keys farthest from our own first: other nodes are closer to those and are asked sooner.

Not here: which peer may bring a statement, and when (``server``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from protocol.dht.routing_table import as_number, model_key, peer_key
from protocol.errors import BadEnvelope
from protocol.ids import ModelId, PeerId
from protocol.settings import DhtSettings
from protocol.statements.adverts import Load, Provider
from protocol.statements.envelope import Envelope, read, remaining_s
from protocol.subnet import limited

#: Statements kept in all, as a multiple of the keys (guess: most keys are of one author, some of many).
STATEMENTS_PER_KEY: Final = 4
#: Share of one key that may come from one network group (guess).
_SHARE_PER_GROUP: Final = 4


def record_key(envelope: Envelope) -> bytes:
    """The key a statement belongs under; raises ``BadEnvelope`` if it is forged or of a kind that is not kept.

    Raises ``UnknownStatement`` if it is of a newer version, which is no fault of the sender.
    """
    value = read(envelope)
    if isinstance(value, Load):
        raise BadEnvelope("a load is not kept")
    return model_key(ModelId(value.model)) if isinstance(value, Provider) else peer_key(envelope.author)


def validate(key: bytes, envelope: Envelope, wall: float, skew_s: float) -> float:
    """How long a statement found under ``key`` may be believed, seconds.

    Raises ``StaleStatement`` or ``UnknownStatement`` (ignored), or ``BadEnvelope`` (counts against the sender).
    """
    left = remaining_s(envelope, wall, skew_s)
    if record_key(envelope) != key:
        raise BadEnvelope("under a key that is not its own")
    return left


class _Kept(NamedTuple):
    envelope: Envelope
    group: str
    until: float


class RecordStore:
    """The statements that one node keeps."""

    def __init__(self, me: PeerId, settings: DhtSettings) -> None:
        self._number = as_number(peer_key(me))
        self._settings = settings
        self._keys: dict[bytes, dict[PeerId, _Kept]] = {}
        self.statements = 0

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, key: bytes, envelope: Envelope, group: str, now: float, until: float) -> bool:
        """Store a validated statement; False if a newer one is there, or no room."""
        self._purge(key, now)
        kept = self._keys.get(key, {})
        old = kept.get(envelope.author)
        if old is not None:
            if old.envelope.version >= envelope.version:
                return False
        elif not self._make_room(key, kept, group):
            return False
        self._keys.setdefault(key, {})[envelope.author] = _Kept(envelope, group, until)
        self.statements += old is None
        return True

    def _make_room(self, key: bytes, kept: dict[PeerId, _Kept], group: str) -> bool:
        most = self._settings.store_per_key
        if len(kept) >= most:
            return False
        if limited(group) and sum(item.group == group for item in kept.values()) >= max(1, most // _SHARE_PER_GROUP):
            return False
        while (not kept and len(self._keys) >= self._settings.store_keys) or (
            self.statements >= self._settings.store_keys * STATEMENTS_PER_KEY
        ):
            farthest = max(self._keys, key=self._distance)
            if self._distance(farthest) <= self._distance(key):
                return False
            self.statements -= len(self._keys.pop(farthest))
        return True

    def _distance(self, key: bytes) -> int:
        return as_number(key) ^ self._number

    def get(self, key: bytes, now: float) -> list[Envelope]:
        """The stored statements under a key that have not expired."""
        self._purge(key, now)
        return [item.envelope for item in self._keys.get(key, {}).values()]

    def _purge(self, key: bytes, now: float) -> None:
        kept = self._keys.get(key)
        if kept is None:
            return
        for author in [author for author, item in kept.items() if item.until <= now]:
            del kept[author]
            self.statements -= 1
        if not kept:
            del self._keys[key]

    def expire(self, now: float) -> None:
        """Drop the expired statements."""
        for key in list(self._keys):
            self._purge(key, now)
