"""The gate: forged, stale, replayed and equivocal statements (T-S3, T-S4, T-S7)."""

from __future__ import annotations

import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import BadEnvelope
from protocol.gossip.validation import MAX_PROOFS, Counts, Validator, Verdict
from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.settings import GossipSettings
from protocol.statements.adverts import Load, Provider
from protocol.statements.envelope import Envelope, Key, parse, seal, statement
from protocol.statements.keys import ADVERT, LOAD
from protocol.token_bucket import TokenBucket
from tests.protocol.harness import WALL, advert_of, signer_of

ME = signer_of(0)


class Gate(Validator):
    """An intake on a clock that stands at 0 unless told otherwise."""

    def __init__(self, size: int = 4096) -> None:
        self.view = PeerView(ME.peer_id, size, 64)
        self.counts = Counts()
        super().__init__(ME.peer_id, GossipSettings(), self.view, self.counts)
        self.start({}, 0.0, WALL)

    def get(self, envelope: Envelope, now: float = 0.0, allowance: TokenBucket | None = None) -> Verdict:
        key = (envelope.author, envelope.kind)
        return self.take(key, self.marks.get(key), parse(envelope.wire), (allowance,) if allowance else (), now)


def load(author: int = 1, seq: int = 1, inc: int = 1, issued: float = WALL, running: int = 0) -> Envelope:
    return statement(signer_of(author), Load(running=running), (inc, seq), issued, 60)


def forged(envelope: Envelope) -> Envelope:
    wire = bytearray(envelope.wire)
    wire[60] ^= 1
    return parse(bytes(wire))


def test_messages_and_their_bytes_are_counted() -> None:
    counts = Counts()
    assert set(counts.as_dict().values()) == {0}
    for cost in (100, 20, 3):
        counts.sent(cost)
    assert {name: count for name, count in counts.as_dict().items() if count} == {"messages_out": 3, "bytes_out": 123}


def test_the_newest_wins_and_the_rest_is_told_apart() -> None:
    gate = Gate()
    assert gate.get(load(seq=2)) is Verdict.NEW
    assert gate.get(load(seq=2)) is Verdict.KNOWN
    assert gate.get(load(seq=1)) is Verdict.STALE
    assert gate.get(load(seq=3)) is Verdict.NEW
    assert gate.get(load(seq=1, inc=2)) is Verdict.NEW
    assert gate.get(load(seq=9, inc=1)) is Verdict.STALE
    assert (gate.counts.records_new, gate.counts.known, gate.counts.stale) == (3, 1, 2)


def test_a_forged_statement_is_its_relayers_fault_and_leaves_no_trace() -> None:
    gate = Gate()
    with pytest.raises(BadEnvelope) as caught:
        gate.get(forged(load(seq=5)))
    assert caught.value.blame == 1
    assert len(gate.marks) == 0
    assert load().author not in gate.view
    assert gate.get(load(seq=1)) is Verdict.NEW


def test_what_ran_out_here_is_not_taken_again() -> None:
    gate = Gate()
    gate.get(load())
    gate.sweep(61.0)
    assert gate.get(load(), now=61.0) is Verdict.KNOWN  # a neighbour's clock may still hold it for two minutes
    assert gate.get(load(seq=2, issued=WALL + 61), now=61.0) is Verdict.NEW


@pytest.mark.parametrize("off", [600.0, -600.0])
def test_a_clock_ten_minutes_off_is_ignored_without_a_trace(off: float) -> None:
    gate = Gate()
    assert gate.get(load(issued=WALL + off)) is Verdict.IGNORED
    assert gate.counts.skewed == 1
    assert len(gate.marks) == 0


@pytest.mark.parametrize("off", [119.0, -119.0])
def test_a_clock_two_minutes_off_is_good_enough(off: float) -> None:
    assert Gate().get(load(issued=WALL + off)) is Verdict.NEW


def test_a_statement_is_taken_in_the_last_second_of_its_life_and_not_after_it() -> None:
    """Issued at 0 s for 60 s, with 120 s for clocks that differ: it may be taken until 180 s, and lives as long."""
    for now, verdict in (
        (179.0, Verdict.NEW),
        (179.5, Verdict.NEW),
        (180.0, Verdict.IGNORED),
        (181.0, Verdict.IGNORED),
    ):
        gate = Gate()
        assert gate.get(load(), now=now) is verdict
        assert gate.counts.skewed == (verdict is Verdict.IGNORED)
    mark = Gate()
    mark.get(load(), now=179.5)
    assert [mark.marks.living(now) for now in (179.9, 180.0)] == [1, 0]


def test_a_restarted_receiver_does_not_take_older_ones_but_takes_the_newest_again() -> None:
    before = Gate()
    before.get(load(seq=7))
    table = before.marks.export(30.0, WALL + 30)
    after = Gate()
    after.start(table, 500.0, WALL + 40)
    assert after.get(load(seq=6), now=500.0) is Verdict.STALE
    assert after.get(load(seq=7), now=500.0) is Verdict.NEW
    assert after.get(load(seq=7), now=500.0) is Verdict.KNOWN


def test_other_kinds_and_what_we_do_not_understand_are_nobodys_fault() -> None:
    gate = Gate()
    provider = statement(signer_of(1), Provider(bytes(16)), (1, 1), WALL, 60)
    strange = seal(signer_of(1), LOAD, (1, 1), WALL, 60, msgpack.packb(["a status of a newer version"]))
    assert gate.get(provider) is Verdict.IGNORED
    assert gate.get(strange) is Verdict.IGNORED
    newer = parse(strange.wire[:1] + b"\x09" + strange.wire[2:])
    assert gate.get(newer) is Verdict.IGNORED
    assert gate.counts.unreadable == 3


def test_a_relayer_has_an_allowance_of_signatures() -> None:
    gate = Gate()
    allowance = TokenBucket(1.0, 2.0, 0.0)
    verdicts = [gate.get(load(author=i), allowance=allowance) for i in (1, 2, 3)]
    assert verdicts == [Verdict.NEW, Verdict.NEW, Verdict.IGNORED]
    assert gate.counts.shed == 1
    assert gate.get(load(author=3), now=1.0, allowance=allowance) is Verdict.NEW


def test_a_full_view_takes_note_but_holds_nothing() -> None:
    gate = Gate(size=1)
    assert gate.get(load(author=1)) is Verdict.NEW
    assert gate.get(load(author=2)) is Verdict.UNHELD
    assert gate.get(load(author=2)) is Verdict.KNOWN
    mark = gate.marks.get((signer_of(2).peer_id, LOAD))
    assert mark is not None
    assert mark.envelope is None


def test_what_the_view_dropped_is_not_held_here_either() -> None:
    gate = Gate()
    for author in (1, 2, 3):
        gate.get(load(author=author))
        gate.get(statement(signer_of(author), advert_of(author), (1, 1), WALL, 60))
    gate.view.remove(signer_of(2).peer_id)
    gate.marks.advance(load(author=0), 60.0, held=True)  # our own is not in the view
    gate.sweep(1.0)
    held = {key for key, mark in gate.marks.items() if mark.envelope is not None}
    assert held == {(signer_of(i).peer_id, kind) for i in (1, 3) for kind in (ADVERT, LOAD)} | {(ME.peer_id, LOAD)}


def test_a_statement_in_our_own_name_is_noticed() -> None:
    gate = Gate()
    assert gate.get(load(author=0)) is Verdict.OWN
    assert gate.counts.impostors == 1
    with pytest.raises(BadEnvelope):
        gate.get(forged(load(author=0)))


# --- equivocation (T-S7) ---------------------------------------------------------------------------------------------


def test_two_statements_of_one_version_are_kept_as_proof() -> None:
    gate = Gate()
    one, other = load(running=0), load(running=9)
    gate.get(one)
    assert gate.get(other) is Verdict.KNOWN
    proof = gate.proofs[one.author]
    assert proof[0].version == proof[1].version
    assert proof[0].body != proof[1].body
    assert all(envelope.check() for envelope in proof)
    assert gate.counts.equivocations == 1
    gate.get(other)
    gate.get(load(running=7))
    assert gate.counts.equivocations == 1  # one pair is enough
    record = gate.view.get(one.author)
    assert record is not None
    assert record.load == Load()  # the first stays, until a newer version


def test_a_forged_twin_proves_nothing_against_its_author() -> None:
    gate = Gate()
    gate.get(load())
    with pytest.raises(BadEnvelope):
        gate.get(forged(load(running=9)))
    assert gate.proofs == {}


def test_another_signature_of_the_same_words_is_no_equivocation() -> None:
    gate = Gate()
    gate.get(load())
    wire = bytearray(load().wire)
    wire[60] ^= 1  # the signature only
    assert gate.get(parse(bytes(wire))) is Verdict.KNOWN
    assert gate.proofs == {}


def test_proofs_are_bounded() -> None:
    gate = Gate()
    for author in range(1, MAX_PROOFS + 3):
        gate.get(load(author=author))
        gate.get(load(author=author, running=1))
    assert len(gate.proofs) == MAX_PROOFS == 64
    assert gate.counts.equivocations == MAX_PROOFS
    gate.get(load(author=MAX_PROOFS + 5))
    assert gate.get(forged(load(author=MAX_PROOFS + 5, running=1))) is Verdict.KNOWN, "its signature was not checked"


def test_a_disputed_clock_is_settled_by_the_statements_of_others() -> None:
    gate = Gate()
    gate.clock.observe(1.0, WALL + 3601)
    said = load(issued=WALL + 3601)
    assert gate.get(said, now=1.0) is Verdict.NEW
    assert gate.settles_clock(said, 1.0)
    assert not gate.settles_clock(said, 1.0)
    assert gate.clock.read(1.0) == WALL + 3601


# --- any order (T-S3) ------------------------------------------------------------------------------------------------

STATEMENTS = [load(author, seq, inc, running=seq) for author in (1, 2, 3) for inc in (1, 2) for seq in (1, 2, 3)]
STATEMENTS += [
    statement(signer_of(author), advert_of(10 * author + seq), (1, seq), WALL, 60)
    for author in (1, 2)
    for seq in (1, 2)
]


def final(gate: Gate) -> dict[Key, tuple[tuple[int, int], object]]:
    held = {}
    for key, mark in gate.marks.items():
        record = gate.view.get(PeerId(key[0]))
        assert record is not None
        held[key] = ((mark.inc, mark.seq), record.load if key[1] == LOAD else record.advert)
    return held


def in_order() -> dict[Key, tuple[tuple[int, int], object]]:
    gate = Gate()
    for envelope in STATEMENTS:
        gate.get(envelope)
    return final(gate)


EXPECTED = in_order()


@settings(deadline=None, max_examples=100)
@given(st.randoms(use_true_random=False), st.integers(0, 30))
def test_any_order_duplication_and_delay_gives_the_same_view(rng: random.Random, copies: int) -> None:
    deliveries = STATEMENTS + rng.choices(STATEMENTS, k=copies)
    rng.shuffle(deliveries)
    gate, now = Gate(), 0.0
    for envelope in deliveries:
        now += rng.uniform(0.0, 50 / len(deliveries))
        gate.get(envelope, now=now)
    assert final(gate) == EXPECTED
