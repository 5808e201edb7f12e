"""Attackers that abuse statements: they replay old ones, forge new ones, and raise false doubts."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from protocol.codec import pack
from protocol.ids import PEER_ID_BYTES, PeerId
from protocol.statements.adverts import Advert, Load, Status
from protocol.statements.envelope import MAX_PAYLOAD_BYTES, OVERHEAD_BYTES, Envelope, parse, seal, statement
from protocol.statements.keys import ADVERT, LOAD, Signer
from protocol.wire.messages import Doubt, NodeMessage, Records
from simulations.attackers.attacker import Attacker, far_end
from simulations.sim.endpoint import SimLink

#: Statements per second and link that a replayer sends, and how many it remembers.
REPLAYED_PER_S: Final = 200.0
REMEMBERED: Final = 4000
#: Forged messages per second and link.
FORGED_PER_S: Final = 2.0
#: Doubts per second and link.
DOUBTS_PER_S: Final = 20.0
#: How far in the future a statement is dated, seconds.
FUTURE_S: Final = 86_400.0
#: A value that no honest node states; it marks a forged load in case a node accepts one.
_SLOTS: Final = 666
#: Where in a statement's header its author and its incarnation stand.
_AUTHOR_BEGINS: Final = 2
_INC_BEGINS: Final = _AUTHOR_BEGINS + PEER_ID_BYTES
_INC_ENDS: Final = _INC_BEGINS + 8


class Replayer(Attacker):
    """Repeats statements of others: every statement is genuine, and too old."""

    EVERY_S = 0.5

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._heard: deque[Envelope] = deque(maxlen=REMEMBERED)

    def received(self, peer: PeerId, message: NodeMessage, size: int = 0) -> None:
        if type(message) is Records:
            self._heard.extend(message.envelopes)
        super().received(peer, message, size)

    def act(self) -> None:
        count = min(len(self._heard), int(self.amount(REPLAYED_PER_S) * self.EVERY_S))
        self.seek(1)
        for link in self.victims():
            if count:
                old = self.rng.sample(self._heard, count)
                self.push(link, Records(tuple(old)))


class Forger(Attacker):
    """Forges statements: wrong signatures, others' names, times in the future, too long."""

    EVERY_S = 0.5

    def act(self) -> None:
        self.seek(2)
        count = max(1, round(self.amount(FORGED_PER_S) * self.EVERY_S))
        for link in self.victims():
            for _ in range(count):
                envelope = self._forge(link)
                if envelope is not None:
                    self.push_raw(link, Records((envelope,)))

    def _forge(self, link: SimLink) -> Envelope | None:
        form = self.rng.randrange(6)
        victim, wall = self.rng.choice(self.known() or [far_end(link, self)]), self.wall()
        held = victim.node.gossip.own(ADVERT) if victim.up else None
        if form == 0 and held is not None:
            return changed(held)
        if form == 1:  # a goodbye in another's name
            return in_name_of(
                victim.peer_id, self.signer, Load(status=int(Status.LEFT)), wall, self.rng.getrandbits(60)
            )
        if form == 2:  # the victim itself said so
            return in_name_of(link.other(self).peer_id, self.signer, Load(slots=_SLOTS), wall, self.rng.getrandbits(60))
        if form == 3:  # its own, from tomorrow: the signature holds
            return statement(self.signer, Load(slots=_SLOTS), (self.life, 1 << 31), wall + FUTURE_S, 60)
        if form == 4:
            return too_long(self.signer, wall)
        return in_name_of(PeerId(self.rng.randbytes(32)), self.signer, Load(slots=_SLOTS), wall, 1)  # unknown author


def changed(envelope: Envelope) -> Envelope:
    """The statement with another payload and a higher number, under the signature of the old one."""
    payload = bytearray(envelope.payload)
    payload[-1] ^= 1
    return _assembled(envelope, envelope.author, envelope.inc + 1, bytes(payload))


def in_name_of(author: PeerId, signer: Signer, value: Load | Advert, wall: float, inc: int) -> Envelope:
    """A statement whose author is not its signer."""
    kind = LOAD if isinstance(value, Load) else ADVERT
    own = seal(signer, kind, (inc, 1), wall, 60, pack(value))
    return parse(own.wire[:_AUTHOR_BEGINS] + author + own.wire[_INC_BEGINS:])


def too_long(signer: Signer, wall: float) -> Envelope:
    """A statement that is longer than any may be; nothing but its length is wrong with it."""
    own = seal(signer, LOAD, (1, 1), wall, 60, pack(Load()))
    payload = bytes(MAX_PAYLOAD_BYTES + 1)
    return Envelope(LOAD, own.author, 1, 1, own.issued, own.ttl, payload, own.wire[: -len(own.payload)] + payload)


def _assembled(like: Envelope, author: PeerId, inc: int, payload: bytes) -> Envelope:
    after = like.wire[_INC_ENDS:OVERHEAD_BYTES]  # number, time, life and the signature over something else
    return parse(like.wire[:_AUTHOR_BEGINS] + author + inc.to_bytes(8, "big") + after + payload)


class Slanderer(Attacker):
    """Doubts aloud that honest nodes live, about the newest that anybody can know of them."""

    EVERY_S = 0.5

    def act(self) -> None:
        self.seek(1)
        subjects = self.known()
        count = min(len(subjects), round(self.amount(DOUBTS_PER_S) * self.EVERY_S))
        for link in self.victims():
            for subject in self.rng.sample(subjects, count):
                inc, seq = self.node.gossip.version_of(subject.peer_id)
                ahead = self.rng.random() < 0.5  # of a version that does not exist yet
                self.push(link, Doubt(subject.peer_id, inc + ahead, seq))
