"""The links of this node and the machine that decides about them: the one object the rest of the daemon talks to.

It performs what ``protocol.node`` asks for (send, dial, hang up, penalise), gives it what happens, keeps one link per
peer, and opens a channel to any peer for a job.  It decides nothing about peers itself, except what a driver must: who
is banned, which of two links stays, when a link that was made for a job has been idle for long enough.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from p2pnode.swarm.driver import Driver
from p2pnode.swarm.net import Link, LinkBroken, Net, NetError, PeerUnreachable
from p2pnode.swarm.peerlink import Channel, ChannelReset, PeerLink
from protocol import PROTOCOL_VERSION
from protocol.adverts import Advert, Load, read
from protocol.effects import Dial, Effect, Found, Hangup, Penalise, PeerState, Send
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.events import (
    Advertise,
    DialFailed,
    FindPeer,
    FindProviders,
    Leave,
    LinkDown,
    LinkUp,
    Received,
    ReportLoad,
    RoundTrip,
)
from protocol.ids import ModelId, PeerId, peer_text, short
from protocol.messages import DHT_QUERY, DHT_REPLY, DHT_STORE, DIGEST, DOUBT, RECORDS, Hello, decode
from protocol.settings import NodeSettings

if TYPE_CHECKING:
    from protocol.node import Node

log = logging.getLogger(__name__)

#: Seconds for both HELLOs, and for a whole dial with them.
HELLO_S: Final = 5.0
DIAL_S: Final = 15.0
#: Dials under way at once, and wanted at once.
DIALS: Final = 16
DIALS_WANTED: Final = 128
#: Penalty points within this many seconds that ban a peer and its address for as long (threat model 3.2).
BAN_POINTS: Final = 5
BAN_S: Final = 600.0
#: A link made for a job and idle for this long is closed, seconds (guess: longer than a pause in a conversation).
IDLE_S: Final = 60.0
#: A second link to a peer stays open for this long, seconds, so that the other end has chosen as well.
SECOND_LINK_S: Final = 1.0
#: Seconds a look-up may take here; the machine's own deadline is shorter.
FIND_S: Final = 10.0
#: Seconds to hand the last messages to the network when leaving.
LEAVE_S: Final = 1.0
#: Peers whose addresses and penalties are remembered.
REMEMBERED: Final = 4096
#: Kinds between nodes that this version knows; others are a newer peer's and passed over.
_KINDS: Final = frozenset({RECORDS, DIGEST, DOUBT, DHT_QUERY, DHT_REPLY, DHT_STORE})



class _Dialling:
    """A dial under way, shared by whoever wants that peer."""

    def __init__(self, peer: PeerId | None, addrs: tuple[str, ...]) -> None:
        self.peer = peer
        self.addrs = addrs
        self.asked = False
        self.problem = ""
        self.done = trio.Event()


class _Find:
    """A look-up under way."""

    def __init__(self) -> None:
        self.found: Found | None = None
        self.done = trio.Event()

    def answer(self, found: Found) -> None:
        self.found = found
        self.done.set()


OnJob = Callable[[Channel, list[tuple[int, bytes]]], Awaitable[None]]


class Swarm:
    """All links of one node.  ``on_job`` is awaited for every job that a peer brings, with its first frames."""

    def __init__(
        self,
        net: Net,
        node: Node,
        settings: NodeSettings,
        network: str,
        on_job: OnJob,
        wall: Callable[[], float] = time.time,
        agent: str = "",
    ) -> None:
        self._net = net
        self._node = node
        self._settings = settings
        self._network = network
        self._on_job = on_job
        self._agent = agent
        self._driver = Driver(node, self._perform, wall)
        self._links: dict[PeerId, list[PeerLink]] = {}  # the first of each list is the one in use
        self._for_jobs: set[PeerId] = set()
        self._dials: dict[PeerId | tuple[str, ...], _Dialling] = {}
        self._dial_slots = trio.CapacityLimiter(DIALS)
        self._addrs: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._points: OrderedDict[PeerId, deque[tuple[float, int]]] = OrderedDict()
        self._finds: dict[int, _Find] = {}
        self._queries = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        self._leaving = False

    # --- what the daemon asks of it ------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, link and drive until cancelled; ``started`` once this node can be dialled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._net.run)
            nursery.start_soon(self._driver.run)
            nursery.start_soon(self._welcome_all)
            nursery.start_soon(self._close_idle)
            task_status.started()

    @property
    def view(self) -> Any:
        """What is believed of each peer (``protocol.peerview.PeerView``)."""
        return self._node.view

    @property
    def me(self) -> PeerId:
        return self._net.local_id

    @property
    def addrs(self) -> tuple[str, ...]:
        """Where this node can be dialled."""
        return self._net.addrs()

    async def open_job(self, peer: PeerId) -> Channel:
        """A channel to ``peer``, which is dialled if no link stands; raises ``PeerUnreachable``."""
        link = self._link(peer)
        if link is None:
            await self._reach(peer)
            link = self._link(peer)
        if link is None:
            raise PeerUnreachable(f"no link to {short(peer)}")
        try:
            channel = link.open()
        except (LocalProtocolError, LinkBroken) as error:
            raise PeerUnreachable(f"{short(peer)}: {error}") from error
        await trio.lowlevel.checkpoint_if_cancelled()
        return channel

    def advertise(self, advert: Advert) -> None:
        """Tell the network what this node is now."""
        self._driver.put(Advertise(advert))

    def report_load(self, load: Load) -> None:
        """Tell the machine what this node does now; it decides whether that is news."""
        self._driver.put(ReportLoad(load))

    async def find_peer(self, peer: PeerId) -> Found:
        """Look a peer up in the DHT."""
        return await self._find(lambda query: FindPeer(query, peer))

    async def find_providers(self, model: ModelId) -> Found:
        """Look up who serves a model."""
        return await self._find(lambda query: FindProviders(query, model))

    async def leave(self) -> None:
        """Say goodbye to all neighbours; cancel :meth:`run` afterwards."""
        self._leaving = True
        self._driver.put(Leave())
        with trio.move_on_after(LEAVE_S):
            await self._driver.settled()
            async with trio.open_nursery() as nursery:
                for link in self._all_links():
                    nursery.start_soon(link.flush)

    def links(self) -> list[dict[str, Any]]:
        """Every link, for status pages."""
        return [
            {
                "peer": peer_text(link.peer),
                "address": link.address,
                "outbound": link.outbound,
                "rtt_s": link.rtt_s,
                "bytes_in": link.bytes_in,
                "bytes_out": link.bytes_out,
                "channels": link.channels,
                "age_s": trio.current_time() - link.since,
                "agent": link.hello.agent if link.hello else "",
            }
            for link in self._all_links()
        ]

    def observed(self) -> list[str]:
        """The address of this node as each of its peers sees it."""
        return [link.hello.observed for link in self._all_links() if link.hello and link.hello.observed]

    @property
    def faults(self) -> int:
        """Events that the machine could not handle: defects of p2pnode."""
        return self._driver.faults

    # --- effects -------------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                link = self._link(peer)
                if link is not None:
                    link.post(message)
            case Dial(peer, addrs):
                self._dial(peer, addrs, asked=True)
            case Hangup(peer, reason):
                self._hang_up(peer, reason)
            case Penalise(peer, points, reason):
                self._penalise(peer, points, reason)
            case PeerState(peer, state):
                log.info("%s is %s", short(peer), state)
            case Found():
                find = self._finds.pop(effect.query, None)
                if find is not None:
                    find.answer(effect)

    def _hang_up(self, peer: PeerId, reason: str) -> None:
        links = self._links.get(peer, [])
        if any(link.channels for link in links):
            self._for_jobs.add(peer)  # nobody but the jobs wants it any more
            return
        for link in links:
            link.retire(reason)

    def _penalise(self, peer: PeerId, points: int, reason: str) -> None:
        now = trio.current_time()
        history = self._points.setdefault(peer, deque(maxlen=BAN_POINTS * 2))
        self._points.move_to_end(peer)
        if len(self._points) > REMEMBERED:
            self._points.popitem(last=False)
        history.append((now, points))
        log.debug("%s: %d points for: %s", short(peer), points, reason)
        if sum(weight for at, weight in history if now - at < BAN_S) < BAN_POINTS:
            return
        del self._points[peer]
        links = self._links.get(peer, [])
        log.warning("%s is banned for %.0f minutes: %s", short(peer), BAN_S / 60, reason)
        self._net.ban(peer, links[0].address if links else "", BAN_S)
        for link in list(links):
            link.stop(f"banned: {reason}")

    # --- dialling ------------------------------------------------------------------------------------------------

    def _dial(self, peer: PeerId | None, addrs: tuple[str, ...], *, asked: bool) -> _Dialling | None:
        """Start a dial, or join the one under way.  ``asked``: the machine waits for its outcome."""
        key: PeerId | tuple[str, ...] = peer if peer is not None else addrs
        if peer is not None and self._link(peer) is not None:
            return None  # the machine has been told of that link, or will be before it hears anything else
        dialling = self._dials.get(key)
        if dialling is None:
            if self._leaving or self._nursery is None or len(self._dials) >= DIALS_WANTED:
                if asked:
                    self._driver.put(DialFailed(peer, addrs, "too many dials at once"))
                return None
            dialling = self._dials[key] = _Dialling(peer, addrs)
            self._nursery.start_soon(self._run_dial, key, dialling)
        dialling.asked = dialling.asked or asked
        return dialling

    async def _run_dial(self, key: PeerId | tuple[str, ...], dialling: _Dialling) -> None:
        link = None
        try:
            async with self._dial_slots:
                with trio.fail_after(DIAL_S):
                    link = await self._greet(await self._net.dial(dialling.peer, dialling.addrs))
        except trio.TooSlowError:
            dialling.problem = f"no answer in {DIAL_S:.0f} s"
        except (NetError, RemoteProtocolError) as error:
            dialling.problem = str(error)
        except Exception as error:
            log.exception("dialling failed in a way that it should not")
            dialling.problem = repr(error)
        finally:
            del self._dials[key]
        if link is not None:
            self._register(link, wanted=dialling.asked)
        elif dialling.asked:
            self._driver.put(DialFailed(dialling.peer, dialling.addrs, dialling.problem))
        dialling.done.set()
        if link is not None:
            await self._serve(link)

    async def _reach(self, peer: PeerId) -> None:
        """Make a link for a job: by the addresses at hand, then by those that the DHT knows."""
        if peer == self.me:
            raise PeerUnreachable("that is this node itself")
        problem = "none of its addresses is known"
        tried: tuple[str, ...] = ()
        for source in (self._known_addrs, self._found_addrs):
            addrs = await source(peer)
            if not addrs or addrs == tried:
                continue
            tried = addrs
            dialling = self._dial(peer, addrs, asked=False)
            if dialling is not None:
                await dialling.done.wait()
                problem = dialling.problem
            if self._link(peer) is not None:
                return
        raise PeerUnreachable(f"{short(peer)} cannot be reached: {problem}")

    async def _known_addrs(self, peer: PeerId) -> tuple[str, ...]:
        record = self._node.view.get(peer)
        advert = record.advert if record is not None else None
        stated = advert.addrs if advert is not None else ()
        await trio.lowlevel.checkpoint_if_cancelled()
        return tuple(dict.fromkeys((*stated, *self._addrs.get(peer, ()))))

    async def _found_addrs(self, peer: PeerId) -> tuple[str, ...]:
        found = await self.find_peer(peer)
        addrs = [addr for contact, known in found.contacts if contact == peer for addr in known]
        for envelope in found.envelopes:
            value = read(envelope)
            if envelope.author == peer and isinstance(value, Advert):
                addrs += value.addrs
        return tuple(dict.fromkeys(addrs))

    # --- links ---------------------------------------------------------------------------------------------------

    async def _welcome_all(self) -> None:
        assert self._nursery is not None
        while True:
            self._nursery.start_soon(self._welcome, await self._net.accept())

    async def _welcome(self, stream: Link) -> None:
        link = None
        try:
            with trio.fail_after(HELLO_S):
                link = await self._greet(stream)
        except trio.TooSlowError:
            log.debug("%s said no HELLO", stream.address)
        except (NetError, RemoteProtocolError) as error:
            log.debug("%s was not let in: %s", stream.address, error)
        except Exception:
            log.exception("a peer could not be welcomed in a way that should not happen")
        if link is not None:
            self._register(link, wanted=True)
            await self._serve(link)

    async def _greet(self, stream: Link) -> PeerLink:
        """Both HELLOs, or the stream is cut."""
        try:
            link = PeerLink(stream, self._settings.link)
            own = Hello(PROTOCOL_VERSION, self._network, self._agent, self._net.addrs()[:8], stream.address)
            hello = await link.greet(own)
            if hello.protocol != PROTOCOL_VERSION:
                raise PeerUnreachable(f"it speaks version {hello.protocol} of the protocol, not {PROTOCOL_VERSION}")
            if hello.network != self._network:
                raise PeerUnreachable("it belongs to another network")
        except BaseException:
            stream.cut()
            raise
        return link

    def _register(self, link: PeerLink, *, wanted: bool) -> None:
        """A link stands: tell the machine, or, if it is the second to that peer, keep one."""
        peer = link.peer
        links = self._links.setdefault(peer, [])
        links.append(link)
        said = link.hello.addrs if link.hello else ()
        addrs = tuple(dict.fromkeys((link.via, *said) if link.via else said))[:8]
        self._addrs[peer] = addrs
        self._addrs.move_to_end(peer)
        if len(self._addrs) > REMEMBERED:
            self._addrs.popitem(last=False)
        if wanted:
            self._for_jobs.discard(peer)
        elif len(links) == 1:
            self._for_jobs.add(peer)
        if len(links) == 1:
            self._driver.put(LinkUp(peer, link.outbound, link.address, addrs))
        else:
            self._choose(links)

    def _choose(self, links: list[PeerLink]) -> None:
        """Of several links to a peer both ends use the same: the one dialled by the smaller id, then the newest."""
        links.sort(key=lambda link: (self._dialler(link) == min(self.me, link.peer), link.since), reverse=True)
        for link in links[1:]:
            if not link.retired and self._nursery is not None:
                link.retired = True
                self._nursery.start_soon(_retire, link)

    def _dialler(self, link: PeerLink) -> PeerId:
        return self.me if link.outbound else link.peer

    async def _serve(self, link: PeerLink) -> None:
        try:
            await link.run(self)
        except Exception:
            log.exception("a defect of p2pnode ended the link to %s; please report this", short(link.peer))
        finally:
            self._unregister(link)

    def _unregister(self, link: PeerLink) -> None:
        links = self._links.get(link.peer, [])
        if link in links:
            links.remove(link)
        if not links:
            self._links.pop(link.peer, None)
            self._for_jobs.discard(link.peer)
            self._driver.put(LinkDown(link.peer, link.reason))

    def _link(self, peer: PeerId) -> PeerLink | None:
        links = self._links.get(peer)
        return next((link for link in links if not link.reason), None) if links else None

    def _all_links(self) -> list[PeerLink]:
        return [link for links in self._links.values() for link in links]

    async def _close_idle(self) -> None:
        """Close links that only jobs wanted and no job has used for a while."""
        while True:
            await trio.sleep(IDLE_S / 6)
            now = trio.current_time()
            for peer in list(self._for_jobs):
                for link in self._links.get(peer, ()):
                    if not link.channels and now - link.used >= IDLE_S:
                        link.retire("idle")

    # --- what links tell (``peerlink.LinkOwner``) ----------------------------------------------------------------

    async def on_message(self, link: PeerLink, kind: int, payload: bytes) -> None:
        if kind not in _KINDS:
            return
        try:
            message = decode(kind, payload)
        except RemoteProtocolError as error:
            self._penalise(link.peer, error.blame, str(error))
            return
        await self._driver.put_received(Received(link.peer, message))  # type: ignore[arg-type]

    def on_channel(self, link: PeerLink, channel: Channel) -> None:
        if self._nursery is None or self._leaving:
            channel.reset()
        else:
            self._nursery.start_soon(self._job, channel)

    def on_rtt(self, link: PeerLink, seconds: float) -> None:
        self._driver.put(RoundTrip(link.peer, seconds))

    def on_fault(self, link: PeerLink, error: RemoteProtocolError) -> None:
        self._penalise(link.peer, error.blame, str(error))

    async def _job(self, channel: Channel) -> None:
        """One job of a peer.  Whatever goes wrong in it ends it and nothing else."""
        try:
            async with channel:
                await self._on_job(channel, await channel.receive())
        except (ChannelReset, LinkBroken) as error:
            log.debug("a job of %s ended: %s", short(channel.peer), error)
        except Exception:
            log.exception("a defect of p2pnode ended a job of %s; please report this", short(channel.peer))

    # --- look-ups ------------------------------------------------------------------------------------------------

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


async def _retire(link: PeerLink) -> None:
    await trio.sleep(SECOND_LINK_S)
    link.retire("another link to the same peer is kept")
