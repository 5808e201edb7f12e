"""The peer view: the beliefs of this node about each peer, and their age.

Theory of operation
===================

One record per peer, and beside it, in numpy columns, the figures that ranking reads for a thousand peers at once.
Each change updates the columns and the index of models; a query changes nothing.

There is room for ``size`` peers; ``eviction`` says which one gives way to another.  Wanted are the models that this
node serves, and those it was asked for last (:meth:`PeerView.want`): a peer that offers one is kept rather than others.
A record above the limits is dropped with its link.  Otherwise an attacker could fill the view by redialling under new
ids.

Everything here except times, links, states and counts is the peer's own claim; the columns hold as much of a claim as
counts (``perf.ceilings``), the statements all of it.  Not here: which statement is newer
(``gossip``), which peers are dead (``failure_detector``), which one is best (``ranking``).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from protocol.arrays import IntArray
from protocol.ids import PeerId
from protocol.membership.columns import Columns, Offers
from protocol.membership.eviction import Eviction
from protocol.membership.learned import Learned
from protocol.membership.peer_columns import OF_A_LOAD, PEER_COLUMNS, UNKNOWN_SLOTS
from protocol.membership.peer_record import PeerRecord, refreshed
from protocol.perf.ceilings import absurd_advert, absurd_load, believed
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer
from protocol.statements.envelope import Envelope
from protocol.subnet import group_of, network_group
from protocol.wire.messages import FreshLoad

STATES: Final = ("alive", "suspect", "dead", "left")
#: The column ``alive``: peers that are believed to be there, doubted, or gone.
ALIVE: Final = 2
SUSPECT: Final = 1
_STANDING: Final = {"alive": ALIVE, "suspect": SUSPECT, "dead": 0, "left": 0}
#: Names of models that count as wanted: those of the longest advert, and as many again (guess).
MOST_WANTED: Final = 128
#: For how long a peer that a dial could not reach is asked after others, first and at most, seconds; doubling (the
#: pauses of a circuit breaker, routing study).
MISSED_FIRST_S: Final = 30.0
MISSED_MOST_S: Final = 600.0
#: For how long it is not asked at all, first and at most, seconds (guess: a hiccup; one dial a minute for a victim).
ABSENT_FIRST_S: Final = 10.0
ABSENT_MOST_S: Final = 60.0
#: Smoothing of the round-trip time and its variance (RFC 6298 2.3).
_SRTT_GAIN: Final = 1 / 8
_RTTVAR_GAIN: Final = 1 / 4
#: Mean deviations on top of the round trip that ranking expects (routing study; RFC 6298 waits for four before it
#: sends again).
_DEVIATIONS: Final = 2.0
#: Share of its speed that a throttled GPU keeps if it does not report its clock (guess), and the least share that a
#: clock counts for, so that it divides.
THROTTLED_CLOCK: Final = 0.8
LEAST_CLOCK: Final = 0.01

_INF: Final = math.inf


class PeerView:
    """The peers of one node.  ``columns`` and ``offers`` are for ranking; change nothing there."""

    def __init__(self, me: PeerId, size: int, per_group: int) -> None:
        self.me = me
        self._size = size
        self.columns = Columns(PEER_COLUMNS)
        self._eviction = Eviction(self.columns, size, per_group)
        self._of_a_load = self.columns.packer(*OF_A_LOAD)
        self._load_offset = self.columns.offset(OF_A_LOAD[0])
        self._records: dict[PeerId, PeerRecord] = {}
        self._rows: list[PeerRecord | None] = []
        self._free_rows: list[int] = []
        self._models: dict[str, Offers] = {}
        #: What was learned of the peers, in the view or not.
        self.learned = Learned(self.columns, self._records, self._models, self._eviction)
        self._wanted: dict[str, None] = {}  # the last one asked for at the end
        #: Until then nothing in the view expires.
        self._sure_until = -_INF
        #: How often a statement was dropped.
        self.dropped = 0
        self._add(PeerRecord(me, 0, 0.0, is_self=True), "")

    # --- reading -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Peers, this node not counted."""
        return len(self._records) - 1

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._records

    def get(self, peer: PeerId) -> PeerRecord | None:
        """What is believed of a peer."""
        return self._records.get(peer)

    def records(self) -> tuple[PeerRecord, ...]:
        """All records, this node first, then by arrival."""
        return tuple(self._records.values())

    def at(self, row: int) -> PeerRecord:
        """The record of a row that is in use."""
        record = self._rows[row]
        assert record is not None, "a row of an index is in use"
        return record

    def models(self, most: int | None = None) -> list[str]:
        """Names of the models that most peers offer, most offered first; some of those peers may be gone by now."""
        names = sorted(self._models, key=lambda name: -len(self._models[name]))
        return names[:most]

    def offers(self, model: str) -> Offers | None:
        """The index of a model."""
        return self._models.get(model)

    def offering(self, model: str) -> IntArray:
        """Rows of the peers that claim to offer a model."""
        offers = self._models.get(model)
        return np.empty(0, np.int64) if offers is None else offers.rows

    # --- statements ----------------------------------------------------------------------------------------------

    def put(self, envelope: Envelope, value: Advert | Load, now: float, until: float) -> bool:
        """Take over the content of a verified statement; False if there is no room for its author, or it is our own."""
        if envelope.author == self.me:
            return False
        record = self._records.get(envelope.author)
        if record is not None and isinstance(value, Load):  # the commonest case by far
            record.load_env = envelope
            self._set_load(record, value, now, until)
            return True
        group = group_of(value.addrs) if isinstance(value, Advert) else ""
        if record is None:
            if not self._make_room(group, now, isinstance(value, Advert) and self._is_wanted(value)):
                return False
            record = PeerRecord(envelope.author, 0, now)
            self._add(record, group)
        elif isinstance(value, Advert) and not record.linked and group != record.group:
            if not (record.is_kept or self._make_room_in_group(group, now)):
                self.remove(record.peer)
                return False
            self._regroup(record, group)
        if isinstance(value, Advert):
            record.advert_env = envelope
            self._set_advert(record, value, now, until)
        else:
            record.load_env = envelope
            self._set_load(record, value, now, until)
        return True

    def put_self(self, advert: Advert | None, load: Load | None, now: float) -> None:
        """Set the statements of this node itself, which never expire."""
        record = self._records[self.me]
        if advert is not None:
            for offer in advert.models:
                self.want(offer.name)
            self._set_advert(record, advert, now, _INF)
        if load is not None:
            self._set_load(record, load, now, _INF)

    def want(self, model: str) -> None:
        """This node serves a model, or was asked for it: prefer to keep peers that offer it."""
        known = model in self._wanted
        self._wanted.pop(model, None)
        self._wanted[model] = None
        if known:
            return
        forgotten = ""
        if len(self._wanted) > MOST_WANTED:
            forgotten = next(iter(self._wanted))
            del self._wanted[forgotten]
        for name in (model, forgotten):
            offers = self._models.get(name)
            for row in offers.offers if offers is not None else ():
                self._set_wanted(self.at(row))

    def _is_wanted(self, advert: Advert | None) -> bool:
        return advert is not None and any(offer.name in self._wanted for offer in advert.models)

    def _set_wanted(self, record: PeerRecord) -> None:
        self.columns["wanted"][record.row] = self._is_wanted(record.advert)

    def _set_advert(self, record: PeerRecord, advert: Advert, now: float, until: float) -> None:
        offered = () if record.advert is None else record.advert.models
        record.advert, record.advert_at, record.advert_until = advert, now, until
        self._sure_until = min(self._sure_until, until)
        record.absurd_advert, gpus = absurd_advert(advert), believed(advert.gpus)
        self._index(record.row, offered, advert.models, gpus)
        self._set_wanted(record)
        row, columns = record.row, self.columns
        columns["protocol"][row] = advert.protocol
        columns["advert_until"][row] = until
        columns["until"][row] = whole = max(until, record.load_until)
        self._eviction.expires(whole)
        columns["vram"][row] = record.vram_mib = sum(gpu.count * gpu.vram_mib for gpu in gpus)
        tflops = sum(gpu.count * max(gpu.bf16_tflops, gpu.fp16_tflops) for gpu in gpus)
        bandwidth = sum(gpu.count * gpu.bandwidth_gb_s for gpu in gpus)
        columns["tflops"][row], columns["bandwidth"][row] = tflops, bandwidth
        columns["free"][row] = record.free_mib
        columns["open_until"][row] = record.open_until
        columns["absurd"][row] = bool(record.absurd)

    def put_fresh(self, peer: PeerId, load: FreshLoad, now: float, until: float) -> None:
        """The counts of a load as the peer itself told them over its link; gossip does not replace them ``until`` then.

        They count once a statement of its load is here, which has the figures that these lack.
        """
        record = self._records.get(peer)
        if record is None or not record.linked:
            return
        record.fresh, record.fresh_at, record.fresh_until = load, now, until
        self.columns["fresh"][record.row] = until == _INF
        if record.load is not None:
            self._set_load(record, record.load, record.load_at, record.load_until)

    def end_fresh(self, peer: PeerId) -> None:
        """From now on the peer does not tell changes of its load."""
        record = self._records.get(peer)
        if record is not None:
            record.fresh, record.fresh_until = None, -_INF
            self.columns["fresh"][record.row] = False

    def _set_load(self, record: PeerRecord, load: Load, now: float, until: float) -> None:
        covered, busy_until, counted_at = record.inflight, -_INF, now
        if record.fresh is not None and now < record.fresh_until:
            load, counted_at, covered = refreshed(load, record.fresh), record.fresh_at, record.fresh.yours
            now = max(now, counted_at)  # the peer would have told a change, so a statement confirms the counts
            if covered < record.inflight:  # jobs of ours are on their way, with their prompts
                busy_until = float(self.columns["busy_until"][record.row])
        if (record.load.status if record.load is not None else 0) != load.status:
            self.columns["status"][record.row] = load.status
        record.load, record.load_at, record.load_until = load, now, until
        absurd = absurd_load(load)
        if absurd != record.absurd_load:
            record.absurd_load = absurd
            self.columns["absurd"][record.row] = bool(record.absurd)
        if record.advert is None and until < self._sure_until:
            self._sure_until = until
        whole = max(until, record.advert_until)
        self._eviction.expires(whole)
        buffer, start = self.columns.at(record.row, self._load_offset)
        self._of_a_load.pack_into(
            buffer,
            start,
            until,
            whole,
            load.running + load.waiting,
            load.slots,
            load.slots or UNKNOWN_SLOTS,
            load.queued_prefill_tokens,
            covered,
            record.free_mib,
            load.running,
            load.kv_permille / 1000,
            _clock(load),
            counted_at,
            busy_until,
            record.open_until,
        )

    def _index(
        self, row: int, old: tuple[ModelOffer, ...], new: tuple[ModelOffer, ...], gpus: tuple[Gpu, ...] = ()
    ) -> None:
        """Bring the index of models from one list of offers to the next; of two offers of one name the first counts."""
        offers = {offer.name: offer for offer in reversed(new)}
        for name in {offer.name: None for offer in old}:
            if name not in offers:
                index = self._models[name]
                index.drop(row)
                if not len(index):
                    del self._models[name]
        for name, offer in offers.items():
            learned = self.learned.of_offer(self.at(row).peer, name)
            self._models.setdefault(name, Offers()).put(row, offer, gpus, learned)

    # --- own observations ----------------------------------------------------------------------------------------

    def set_state(self, peer: PeerId, state: str, now: float) -> None:
        """``alive``, ``suspect``, ``dead`` or ``left``; nothing happens for a peer that is not here."""
        record = self._records.get(peer)
        if record is not None:
            record.state, record.state_since = state, now
            self.columns["alive"][record.row] = _STANDING[state]
            if not _STANDING[state]:
                self._eviction.doubt()
            self.columns["open_until"][record.row] = record.open_until

    def set_link(self, peer: PeerId, linked: bool, outbound: bool = False, address: str = "", now: float = 0.0) -> None:
        """A link came up, which always finds room, or went down."""
        record = self._records.get(peer)
        if record is None:
            if not linked:
                return
            self._make_room_for_link(now)
            record = PeerRecord(peer, 0, now)
            self._add(record, "")
        record.linked, record.outbound = linked, outbound and linked
        self.columns["linked"][record.row] = linked
        if not linked:
            self.end_fresh(peer)
        if linked:
            self.columns["reached"][record.row] = 1
            record.misses, record.missed_until = 0, -_INF
            self.columns["missed_until"][record.row] = self.columns["absent_until"][record.row] = -_INF
            record.address = address
            self._regroup(record, network_group(address))
        elif (record.advert is None and record.load is None) or not (record.is_kept or self._fits(record)):
            self.remove(peer)
            return
        else:
            self._sure_until = -_INF  # its statements may have expired while the link stood
        self._keep(record)

    def observe_rtt(self, peer: PeerId, seconds: float) -> None:
        """One measured round trip (RFC 6298)."""
        record = self._records.get(peer)
        if record is None:
            return
        if record.rtt_s is None:
            record.rtt_s, record.rttvar_s = seconds, seconds / 2
        else:
            record.rttvar_s += _RTTVAR_GAIN * (abs(record.rtt_s - seconds) - record.rttvar_s)
            record.rtt_s += _SRTT_GAIN * (seconds - record.rtt_s)
        self.columns["rtt"][record.row] = record.rtt_s
        self.columns["way"][record.row] = record.rtt_s
        self.columns["link"][record.row] = record.rtt_s + _DEVIATIONS * record.rttvar_s

    def observe_unreachable(self, peer: PeerId, now: float) -> None:
        """A dial from here failed, and no link stands: for a while it counts as absent, longer others are asked first.

        The time doubles with each later failure, until a link stands.  Statements that others relay do not shorten it.
        """
        record = self._records.get(peer)
        if record is None or record.linked or now < record.missed_until:
            return
        record.missed_until = now + min(MISSED_MOST_S, MISSED_FIRST_S * 2.0**record.misses)
        self.columns["absent_until"][record.row] = now + min(ABSENT_MOST_S, ABSENT_FIRST_S * 2.0**record.misses)
        record.misses += 1
        self.columns["reached"][record.row] = -1
        self.columns["missed_until"][record.row] = record.missed_until

    def observe_success(self, peer: PeerId) -> None:
        """A job of ours went well there: from now on the peer is proven."""
        record = self._records.get(peer)
        if record is not None:
            record.successes += 1
            self._keep(record)

    def add_inflight(self, peer: PeerId, change: int) -> None:
        """A job of ours begins (+1) or ends (-1) there; counts on top of a load that is older than it."""
        record = self._records.get(peer)
        if record is not None:
            record.inflight = max(0, record.inflight + change)
            self.columns["inflight"][record.row] = record.inflight
            self._keep(record)

    def add_prompt(self, peer: PeerId, model: str, tokens: int, now: float) -> None:
        """A job of ours brings a prompt there, which the peer's load does not contain yet.

        It is processed after those before it, so it moves the time until which the peer is busy with prompts.  The next
        load replaces that time.
        """
        record, offers = self._records.get(peer), self._models.get(model)
        if record is None or offers is None or record.row not in offers.offers:
            return
        row, columns = record.row, self.columns
        token_s = offers.backlog_token_s(row) / float(columns["clock"][row])
        told = float(columns["told_at"][row] + columns["prefill"][row] * token_s)
        columns["busy_until"][row] = max(now, told, float(columns["busy_until"][row])) + tokens * token_s

    # --- room ----------------------------------------------------------------------------------------------------

    def remove(self, peer: PeerId) -> None:
        """Forget a peer."""
        record = self._records.get(peer)
        if record is None or record.is_self:
            return
        del self._records[peer]
        self.dropped += 1
        if record.advert is not None:
            self._index(record.row, record.advert.models, ())
        self._eviction.leave(record)
        self.columns.clear(record.row)
        self._rows[record.row] = None
        self._free_rows.append(record.row)

    def expire(self, now: float) -> list[PeerId]:
        """Forget adverts that ran out, and peers without any state left; returns those peers."""
        gone: list[PeerId] = []
        if now < self._sure_until:
            return gone
        used, until = self.columns["used"], self.columns["advert_until"]
        self._sure_until = float(until.min(initial=_INF, where=used & (until > now)))
        for row in np.flatnonzero(used & (until <= now)).tolist():
            record = self.at(row)
            if record.load_until > now:
                self._sure_until = min(self._sure_until, record.load_until)
            if record.load_until <= now and not record.linked and not record.is_self:
                self.remove(record.peer)
                gone.append(record.peer)
            elif record.advert is not None:
                self._index(row, record.advert.models, ())
                record.advert = record.advert_env = None
                self.dropped += 1
                self._set_wanted(record)
        return gone

    def _add(self, record: PeerRecord, group: str) -> None:
        if self._free_rows:
            record.row = self._free_rows.pop()
            self._rows[record.row] = record
        else:
            record.row = len(self._rows)
            self._rows.append(record)
            self.columns.reserve(len(self._rows))
        self._records[record.peer] = record
        columns, row = self.columns, record.row
        columns["used"][row] = True
        if record.is_self:
            columns["me"][row], columns["way"][row], columns["link"][row] = True, 0.0, 0.0
        columns["alive"][row] = ALIVE
        columns["first_seen"][row] = record.first_seen
        columns["kept"][row] = record.is_kept
        self._join(record, group)

    def _regroup(self, record: PeerRecord, name: str) -> None:
        self._eviction.leave(record)
        self._join(record, name)

    def _join(self, record: PeerRecord, group: str) -> None:
        self._eviction.join(record, group)
        self.learned.joined(record)

    def _keep(self, record: PeerRecord) -> None:
        self.columns["kept"][record.row] = kept = record.is_kept
        if not kept:
            self._eviction.doubt()

    def _fits(self, record: PeerRecord) -> bool:
        return len(self) <= self._size and self._eviction.group_fits(record.group)

    def _make_room_in_group(self, group: str, now: float) -> bool:
        return self._eviction.group_has_place(group) or self._evict(self._eviction.for_group(group, now))

    def _make_room(self, group: str, now: float, wanted: bool) -> bool:
        """Room for an unproven newcomer."""
        if not self._make_room_in_group(group, now):
            return False
        return len(self) < self._size or self._evict(self._eviction.for_newcomer(now, wanted))

    def _make_room_for_link(self, now: float) -> None:
        if len(self) >= self._size:
            self._evict(self._eviction.for_link(now))

    def _evict(self, row: int | None) -> bool:
        if row is not None:
            self.remove(self.at(row).peer)
        return row is not None


def _clock(load: Load) -> float:
    """The share of its full clock at which a GPU works: an idle one lowers it to save power, which says nothing."""
    if not load.throttled and not load.running:
        return 1.0
    clock = min(1.0, load.clock_percent / 100)
    return max(LEAST_CLOCK, THROTTLED_CLOCK if load.throttled and clock == 1.0 else clock)
