"""The interface of the network for the rest of the daemon: jobs to and from peers, the view, look-ups.

It drives ``protocol.node``: it performs the machine's effects and gives it events.  It makes no decisions about peers.
The links are in ``connection_table``.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio

from p2pnode.swarm import DEFECT
from p2pnode.swarm.connection_table import ConnectionTable
from p2pnode.swarm.driver import Driver
from p2pnode.swarm.net import LinkBroken, Net, PeerUnreachable
from p2pnode.swarm.peerlink import Channel, ChannelReset, PeerLink
from protocol.effects import Dial, Effect, Found, Hangup, PeerState, Penalise, Send
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.events import GOODBYE_S, Advertise, FindPeer, FindProviders, Leave, Received, ReportLoad, RoundTrip
from protocol.ids import ModelId, PeerId, peer_text, short
from protocol.jobs.load import is_news
from protocol.jobs.providers import addresses_in
from protocol.jobs.reach import FindAddrs, Reach, Unreached
from protocol.membership.connections import NOT_NOW
from protocol.membership.penalties import Penalties
from protocol.routing.job_query import JobQuery
from protocol.routing.link_pool import routed
from protocol.settings import NodeSettings
from protocol.statements.adverts import Advert, Load
from protocol.wire.messages import (
    DHT_QUERY,
    DHT_REPLY,
    DHT_STORE,
    DIGEST,
    DOUBT,
    FRESH_LOAD,
    FULL,
    RECORDS,
    WATCH,
    FreshLoad,
    decode,
    kind_of,
)
from protocol.wire.mux import FRAME_OVERHEAD

if TYPE_CHECKING:
    from protocol.node import Node

log = logging.getLogger(__name__)

#: Longest look-up, seconds; the machine's own deadline is shorter.
FIND_S: Final = 10.0
#: Kinds between nodes that this version knows; others come from newer peers and are ignored.
_KINDS: Final = frozenset({RECORDS, DIGEST, DOUBT, DHT_QUERY, DHT_REPLY, DHT_STORE, WATCH, FRESH_LOAD, FULL})
#: The kinds of gossip, and their names in metrics.
_GOSSIP: Final = {RECORDS: "records", DIGEST: "digest", DOUBT: "doubt"}

#: Runs each job of a peer, with its first frames; afterwards the channel is reset unless it was closed.
OnJob = Callable[[Channel, list[tuple[int, bytes]]], Awaitable[None]]


_NO_JOBS: Final[Mapping[PeerId, int]] = MappingProxyType({})


class _Find:
    """A look-up in progress."""

    def __init__(self) -> None:
        self.found: Found | None = None
        self.done = trio.Event()


class Swarm:
    """One node in the network."""

    def __init__(
        self,
        net: Net,
        node: Node,
        settings: NodeSettings,
        network: str,
        on_job: OnJob,
        *,
        wall: Callable[[], float] = time.time,
        agent: str = "",
        seeds: Iterable[str] = (),
    ) -> None:
        self._net = net
        self._node = node
        self._settings = settings
        self._on_job = on_job
        self._driver = Driver(node, self._perform, wall, self._send_all)
        self._links = ConnectionTable(
            net,
            settings=settings,
            network=network,
            agent=agent,
            owner=self,
            emit=self._driver.put,
            keeps=node.keeps,
            seeds=seeds,
        )
        self._penalties = Penalties(settings.penalties)
        self._finds: dict[int, _Find] = {}
        #: Links with messages of the machine from this turn of the driver.
        self._to_flush: dict[PeerLink, None] = {}
        self._reported: Load | None = None
        self._queries = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        #: Gossip by kind and direction ("in", "out"), and its bytes by direction.
        self.gossip_messages: Counter[tuple[str, ...]] = Counter()
        self.gossip_bytes: Counter[tuple[str, ...]] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, link and drive until cancelled; ``started`` once this node can be dialled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._net.run)
            await nursery.start(self._links.run)
            nursery.start_soon(self._driver.run)
            task_status.started()

    # --- for the daemon ------------------------------------------------------------------------------------------

    @property
    def view(self) -> Any:
        """The view of all peers (``protocol.membership.peer_view.PeerView``)."""
        return self._node.view

    @property
    def me(self) -> PeerId:
        return self._net.local_id

    @property
    def addrs(self) -> tuple[str, ...]:
        """The addresses of this node."""
        return self._net.addrs()

    async def open_job(
        self,
        peer: PeerId,
        addrs: tuple[str, ...] = (),
        *,
        last: bool = True,
        searching: Callable[[], None] = lambda: None,
    ) -> Channel:
        """A channel to ``peer``; without a link it dials the peer, at ``addrs`` as well.  Raises ``PeerUnreachable``.

        ``last``: no other peer is left, so other addresses of it are looked up if need be, after a call of
        ``searching``.
        """
        link = self._links.for_job(peer)
        if link is None:
            await self._reach(peer, addrs, last, searching)
            link = self._links.for_job(peer)
        if link is None:
            raise PeerUnreachable(f"the link to {short(peer)} broke at once")
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return link.open()
        except (LocalProtocolError, LinkBroken) as error:
            raise PeerUnreachable(f"{short(peer)}: {error}") from error

    def advertise(self, advert: Advert) -> None:
        """Publish a new advert of this node."""
        self._driver.put(Advertise(advert))

    def report_load(self, load: Load, jobs: Mapping[PeerId, int] = _NO_JOBS) -> None:
        """Give the machine the current load, and whose jobs it counts; it decides whom to tell."""
        if is_news(load, self._reported):
            self._reported = load
            self._driver.hand(ReportLoad(load, jobs))

    def told(self, peer: PeerId, load: FreshLoad | None) -> None:
        """A peer told its load in the answer to a job; peers of an older version do not."""
        if load is not None:
            self._driver.hand(Received(peer, load))

    def routed(self, query: JobQuery) -> None:
        """Tell the machine that the peers for a job were ranked."""
        event = routed(query)
        if event is not None:
            self._driver.put(event)

    async def find_peer(self, peer: PeerId) -> Found:
        """Look a peer up in the DHT."""
        return await self._find(lambda query: FindPeer(query, peer))

    async def find_providers(self, model: ModelId) -> Found:
        """Look up the peers that serve a model."""
        return await self._find(lambda query: FindProviders(query, model))

    def seek_providers(self, model: ModelId, told: Callable[[Found], None]) -> None:
        """Look up the peers that serve a model, for as long as that takes; ``told`` gets the result."""
        assert self._nursery is not None, "only a running swarm has jobs"
        self._nursery.start_soon(self._seek_providers, model, told)

    async def _seek_providers(self, model: ModelId, told: Callable[[Found], None]) -> None:
        told(await self.find_providers(model))

    async def leave(self) -> None:
        """Say goodbye to all neighbours, and accept no more jobs.  Cancel :meth:`run` after the running ones."""
        self._links.closed = True
        self._driver.put(Leave())
        with trio.move_on_after(GOODBYE_S):
            await self._driver.settled()
            async with trio.open_nursery() as nursery:
                for link in self._links:
                    nursery.start_soon(link.flush)

    @property
    def linked(self) -> bool:
        """Whether this node has a link."""
        return any(True for _ in self._links)

    def links(self) -> list[dict[str, Any]]:
        """Every link, for status pages."""
        now = trio.current_time()
        return [
            {
                "peer": peer_text(link.peer),
                "address": link.address,
                "outbound": link.outbound,
                "rtt_s": link.rtt_s,
                "bytes_in": link.bytes_in,
                "bytes_out": link.bytes_out,
                "dropped": link.dropped,
                "channels": link.channels,
                "age_s": now - link.since,
                "agent": link.hello.agent if link.hello else "",
            }
            for link in self._links
        ]

    def observed(self) -> list[str]:
        """The IP address of this node as each of its peers sees it."""
        return [link.hello.observed for link in self._links if link.hello and link.hello.observed]

    @property
    def faults(self) -> int:
        """Events that the machine could not handle: defects of p2pnode."""
        return self._driver.faults

    # --- effects -------------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                link = self._links.get(peer)
                if link is not None and (size := link.post(message, hold=True)):
                    self._to_flush[link] = None
                    self._count(kind_of(message), "out", size)
            case Dial(peer, addrs):
                self._links.dial(peer, addrs, asked=True)
            case Hangup(peer, reason):
                self._links.hang_up(peer, reason)
            case Penalise(peer, points, reason):
                self._penalise(peer, points, reason)
            case PeerState(peer, state):
                log.info("peer_state", extra={"peer": short(peer), "state": state})
            case Found():
                find = self._finds.pop(effect.query, None)
                if find is not None:
                    find.found = effect
                    find.done.set()

    def _send_all(self) -> None:
        """Send the machine's messages of this turn, those to one peer in one write."""
        for link in self._to_flush:
            link.hurry()
        self._to_flush.clear()

    def _count(self, kind: int, direction: str, size: int) -> None:
        name = _GOSSIP.get(kind)
        if name is not None:
            self.gossip_messages[name, direction] += 1
            self.gossip_bytes[(direction,)] += size

    def _penalise(self, peer: PeerId, points: int, reason: str, address: str = "") -> None:
        log.debug("peer_penalised", extra={"peer": short(peer), "points": points, "reason": reason})
        if self._penalties.penalise(peer, points, trio.current_time()):
            seconds = self._settings.penalties.ban_s
            log.warning("peer_banned", extra={"peer": short(peer), "seconds": seconds, "reason": reason})
            self._links.ban(peer, reason, seconds, address)

    # --- reaching a peer -----------------------------------------------------------------------------------------

    async def _reach(self, peer: PeerId, addrs: tuple[str, ...], last: bool, searching: Callable[[], None]) -> None:
        """Make a link for a job (``protocol.jobs.reach``)."""
        if peer == self.me:
            raise PeerUnreachable("that is this node itself")
        reach, answered, tried = Reach((*self._known_addrs(peer), *addrs), last=last), False, False
        step = reach.begin()
        while not isinstance(step, Unreached):
            if isinstance(step, FindAddrs):
                searching()
                step = reach.found(addresses_in(await self.find_peer(peer), peer))
                continue
            dialling = self._links.dial(peer, step.addrs, asked=False)
            if dialling is not None:
                await dialling.usable.wait()
                answered, tried = dialling.answered, True
            if self._links.for_job(peer) is not None:
                return
            step = reach.failed(dialling.problem if dialling is not None else NOT_NOW)
        raise PeerUnreachable(f"{short(peer)} cannot be reached: {step.problem}", answered=answered, tried=tried)

    def _known_addrs(self, peer: PeerId) -> tuple[str, ...]:
        record = self._node.view.get(peer)
        advert = record.advert if record is not None else None
        stated = advert.addrs if advert is not None else ()
        return (*stated, *self._links.addrs.get(peer, ()))

    async def _find(self, make: Callable[[int], FindPeer | FindProviders]) -> Found:
        query = next(self._queries)
        find = self._finds[query] = _Find()
        self._driver.put(make(query))
        try:
            with trio.move_on_after(FIND_S):
                await find.done.wait()
        finally:
            self._finds.pop(query, None)
        return find.found or Found(query, (), (), 0)

    # --- for links (``peerlink.LinkOwner``) ----------------------------------------------------------------------

    async def on_message(self, link: PeerLink, kind: int, payload: bytes) -> None:
        while not self.take_message(link, kind, payload):
            await self._driver.room()

    def take_message(self, link: PeerLink, kind: int, payload: bytes) -> bool:
        if kind not in _KINDS:
            return True
        if self._driver.full(link.peer):
            return False
        self._count(kind, "in", FRAME_OVERHEAD + len(payload))
        try:
            message = decode(kind, payload)
        except RemoteProtocolError as error:
            self._penalise(link.peer, error.blame, str(error))
        else:
            self._driver.hand(Received(link.peer, message))  # type: ignore[arg-type]  # ``_KINDS`` makes it a NodeMessage
        return True

    def on_channel(self, link: PeerLink, channel: Channel) -> None:  # noqa: ARG002
        if self._nursery is None or self._links.closed:
            channel.reset()
        else:
            self._nursery.start_soon(self._job, channel)

    def on_rtt(self, link: PeerLink, seconds: float) -> None:
        self._driver.hand(RoundTrip(link.peer, seconds))

    def on_fault(self, link: PeerLink, error: RemoteProtocolError) -> None:
        self._penalise(link.peer, error.blame, str(error), link.address)

    async def _job(self, channel: Channel) -> None:
        """Run one job of a peer; a failure ends only this job."""
        try:
            async with channel:
                await self._on_job(channel, await channel.receive())
        except (ChannelReset, LinkBroken) as error:
            log.debug("job_broken", extra={"peer": short(channel.peer), "reason": str(error)})
        except Exception:
            log.exception("job_defect", extra={"peer": short(channel.peer), "note": DEFECT})
