"""The links of a node and its dials in progress: it makes links, exchanges HELLO, and ends them.

Each peer has one link in use.  Two nodes that dial each other at once get two; both ends then keep the link that the
smaller peer id dialled, and close the other one when it is idle, so that no job is lost.  Not here: the rules
(``protocol.membership.connections``).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import trio

from p2pnode.swarm import DEFECT
from p2pnode.swarm.net import Link, Net, NetError, PeerUnreachable
from p2pnode.swarm.peerlink import LinkOwner, PeerLink
from p2pnode.swarm.ping_scheduler import PingScheduler
from protocol import PROTOCOL_VERSION
from protocol.errors import RemoteProtocolError
from protocol.events import DialFailed, Event, LinkDown, LinkUp
from protocol.ids import PeerId, short
from protocol.membership.connections import NOT_NOW, DialKey, DialQueue, is_idle, link_rank
from protocol.settings import NodeSettings
from protocol.wire.features import OFFERED
from protocol.wire.messages import Hello

log = logging.getLogger(__name__)

#: Seconds that a second link to a peer stays open, so that the other end can choose as well.
SECOND_LINK_S: Final = 1.0
#: Addresses in a HELLO, and peers whose last address is stored.
ADDRS: Final = 8
REMEMBERED: Final = 4096


class Dialling:
    """A dial in progress, shared by all requests for that peer.  ``asked``: the machine waits for its result.

    ``said`` is the link once the peer has proven its key and got our HELLO: jobs need not wait for the other HELLO.
    ``usable`` is set then, or with ``done``.
    """

    def __init__(self, peer: PeerId | None, addrs: tuple[str, ...]) -> None:
        self.peer = peer
        self.addrs = addrs
        self.asked = False
        self.problem = ""
        self.answered = False
        self.said: PeerLink | None = None
        self.usable = trio.Event()
        self.done = trio.Event()


class ConnectionTable:
    """All links of one node.

    ``emit`` takes events for the machine, ``keeps`` says whether an idle link stays open, ``seeds`` are the addresses
    that the operator named.
    """

    def __init__(
        self,
        net: Net,
        *,
        settings: NodeSettings,
        network: str,
        agent: str,
        owner: LinkOwner,
        emit: Callable[[Event], None],
        keeps: Callable[[PeerId], bool],
        seeds: Iterable[str] = (),
    ) -> None:
        self._net = net
        self._settings = settings
        self._network = network
        self._agent = agent
        self._owner = owner
        self._emit = emit
        self._keeps = keeps
        self._links: dict[PeerId, list[PeerLink]] = {}  # the first of each list is the one in use
        self._dials: dict[DialKey, Dialling] = {}
        self._queue = DialQueue(settings.connections, seeds)
        self._pings = PingScheduler()
        self._nursery: trio.Nursery | None = None
        #: Where each peer answered last.  The addresses in a HELLO are unsigned hints for look-ups.
        self.addrs: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self.closed = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept links, and close idle ones, until cancelled; ``started`` when it can dial."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            nursery.start_soon(self._close_idle)
            nursery.start_soon(self._pings.run)
            while True:
                nursery.start_soon(self._welcome, await self._net.accept())

    # --- links ---------------------------------------------------------------------------------------------------

    def get(self, peer: PeerId) -> PeerLink | None:
        """The link in use to ``peer``."""
        return next((link for link in self._links.get(peer, ()) if not link.reason), None)

    def for_job(self, peer: PeerId) -> PeerLink | None:
        """The link in use to ``peer``, or one that is about to stand: the peer has proven its key."""
        link = self.get(peer)
        if link is None and peer in self._dials:
            link = self._dials[peer].said
        return link if link is not None and not link.reason else None

    def __iter__(self) -> Iterator[PeerLink]:
        return iter([link for links in self._links.values() for link in links])

    def hang_up(self, peer: PeerId, reason: str) -> None:
        """Close the links to ``peer`` unless jobs run on one of them."""
        links = self._links.get(peer, [])
        if not any(link.channels for link in links):
            for link in links:
                link.retire(reason)

    def ban(self, peer: PeerId, reason: str, seconds: float, address: str = "") -> None:
        """Close the links to ``peer``, and accept no new ones from it or from its address."""
        links = list(self._links.get(peer, ()))
        self._net.ban(peer, links[0].address if links else address, seconds)
        for link in links:
            link.stop(f"banned: {reason}")

    # --- dialling ------------------------------------------------------------------------------------------------

    def dial(self, peer: PeerId | None, addrs: tuple[str, ...], *, asked: bool) -> Dialling | None:
        """Start a dial, or join the one in progress.  None: there is a link already, or it cannot be dialled now."""
        if peer is not None and self.get(peer) is not None:
            return None  # the machine knows that link, or its LinkUp is queued before all later events
        key: DialKey = peer if peer is not None else addrs
        dialling = self._dials.get(key)
        if dialling is None:
            admitted: tuple[str, ...] = ()
            if not self.closed and self._nursery is not None:
                admitted = self._queue.want(key, addrs, self._net.addrs(), trio.current_time())
            if not admitted or self._nursery is None:
                if asked:
                    self._emit(DialFailed(peer, addrs, NOT_NOW))
                return None
            dialling = self._dials[key] = Dialling(peer, admitted)
            self._start_dials(self._nursery)
        dialling.asked = dialling.asked or asked
        return dialling

    def _start_dials(self, nursery: trio.Nursery) -> None:
        for key in self._queue.start_due():
            nursery.start_soon(self._run_dial, key, self._dials[key], nursery)

    async def _run_dial(self, key: DialKey, dialling: Dialling, nursery: trio.Nursery) -> None:
        link = None
        dial_s = self._settings.connections.dial_s
        try:
            with trio.fail_after(dial_s):
                link = await self._greet(await self._net.dial(dialling.peer, dialling.addrs), dialling)
        except trio.TooSlowError:
            dialling.problem = f"no answer in {dial_s:.0f} s"
        except PeerUnreachable as error:
            dialling.problem, dialling.answered = str(error), error.answered
            for addr, other in error.others.items():
                self._queue.targets.proven(other, addr)
        except (NetError, RemoteProtocolError) as error:
            dialling.problem = str(error)
        except Exception as error:
            log.exception("dial_defect", extra={"note": DEFECT})
            dialling.problem = repr(error)
        finally:
            del self._dials[key]
            self._queue.ended(key)
            self._start_dials(nursery)
        if link is None:
            self._emit(DialFailed(dialling.peer, dialling.addrs, dialling.problem))
        elif link is not None:
            self._register(link, again=dialling.peer is None)
        dialling.done.set()
        dialling.usable.set()
        if link is not None:
            await self._serve(link)

    # --- the life of a link --------------------------------------------------------------------------------------

    async def _welcome(self, stream: Link) -> None:
        link = None
        try:
            with trio.fail_after(self._settings.connections.hello_s):
                link = await self._greet(stream)
        except trio.TooSlowError:
            log.debug("no_hello", extra={"address": stream.address})
        except (NetError, RemoteProtocolError) as error:
            log.debug("link_refused", extra={"address": stream.address, "reason": str(error)})
        except Exception:
            log.exception("welcome_defect", extra={"note": DEFECT})
        if link is not None:
            self._register(link)
            await self._serve(link)

    async def _greet(self, stream: Link, dialling: Dialling | None = None) -> PeerLink:
        """Exchange HELLO; on a failure the stream is cut."""
        link = PeerLink(stream, self._settings.link)
        try:
            addrs = self._net.addrs()[:ADDRS]
            own = Hello(PROTOCOL_VERSION, self._network, self._agent, addrs, stream.address, OFFERED)
            await link.say(own)
            if dialling is not None:
                dialling.said = link
                dialling.usable.set()
            hello = await link.hear(own)
            if hello.protocol != PROTOCOL_VERSION:
                raise PeerUnreachable(f"it speaks version {hello.protocol} of the protocol, not {PROTOCOL_VERSION}")
            if hello.network != self._network:
                raise PeerUnreachable("it belongs to another network")
        except BaseException as error:
            if isinstance(error, RemoteProtocolError):
                self._owner.on_fault(link, error)
            why = str(error) if isinstance(error, Exception) else "no HELLO came in time"
            link.give_up(PeerUnreachable(f"no link to {short(link.peer)}: {why}"))
            raise
        return link

    def _register(self, link: PeerLink, *, again: bool = False) -> None:
        """Add a link and tell the machine; of two links to one peer keep one.

        ``again``: the machine gets ``LinkUp`` in any case, because it dialled an address and not a peer.
        """
        peer = link.peer
        links = self._links.setdefault(peer, [])
        links.append(link)
        stated = link.hello.addrs if link.hello else ()
        addrs = tuple(dict.fromkeys((link.via, *stated) if link.via else stated))[:ADDRS]
        if link.via:
            self.addrs[peer] = (link.via,)
            self.addrs.move_to_end(peer)
        self._queue.targets.linked(peer, link.address, link.via)
        log.debug("link_up", extra={"peer": short(peer), "address": link.address, "outbound": link.outbound})
        if len(self.addrs) > REMEMBERED:
            self.addrs.popitem(last=False)
        if len(links) == 1 or again:
            self._emit(LinkUp(peer, link.outbound, link.address, addrs, link.features))
        if len(links) > 1:
            self._choose(links)

    def _choose(self, links: list[PeerLink]) -> None:
        me = self._net.local_id

        def rank(link: PeerLink) -> tuple[bool, float]:
            return link_rank(me, link.peer, outbound=link.outbound, since=link.since)

        links.sort(key=rank, reverse=True)
        for link in links[1:]:
            if not link.retired and self._nursery is not None:
                link.retired = True
                self._nursery.start_soon(_retire, link)

    async def _serve(self, link: PeerLink) -> None:
        try:
            await link.run(self._owner, self._pings)
        except Exception:
            log.exception("link_defect", extra={"peer": short(link.peer), "note": DEFECT})
        finally:
            log.debug("link_down", extra={"peer": short(link.peer), "reason": link.reason})
            links = self._links[link.peer]
            links.remove(link)
            if not links:
                del self._links[link.peer]
                self._emit(LinkDown(link.peer, link.reason))

    async def _close_idle(self) -> None:
        limits = self._settings.connections
        while True:
            await trio.sleep(limits.idle_check_s)
            now = trio.current_time()
            for link in self:
                kept, unused_s = self._keeps(link.peer), now - link.used
                if is_idle(limits, outbound=link.outbound, jobs=link.channels, kept=kept, unused_s=unused_s):
                    link.retire("idle")


async def _retire(link: PeerLink) -> None:
    await trio.sleep(SECOND_LINK_S)
    link.retire("another link to the same peer is kept")
