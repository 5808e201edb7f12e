"""Drives the machine of a node: one event queue, one order, and timers that become events.

The machine never waits, and only the driver uses it.  Messages are handled inline while the queue is empty, which
saves a task switch.  The driver task runs timers and queued events: this node's own events, which are always accepted,
and messages that arrive too fast.  The queue bounds the messages of all peers and of each peer; a link whose peer
exceeds its bound stops reading, so a fast peer delays only itself.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from p2pnode.swarm import DEFECT
from p2pnode.swarm.wakeup import AutoResetEvent
from protocol.effects import Effect, SetTimer, TimerKey
from protocol.events import Event, Received, TimerFired
from protocol.ids import PeerId

log = logging.getLogger(__name__)

#: Queued messages of all peers and of one peer (guess: at most 64 KiB each, so 32 MiB).
INBOX: Final = 512
INBOX_PER_PEER: Final = 32
#: Events handled before other tasks run (guess: a few milliseconds), and messages handled inline before the driver
#: task runs once.
BATCH: Final = 64


class NodeMachine(Protocol):
    """The interface of ``protocol.node.Node``."""

    def start(self, now: float, wall: float) -> list[Effect]: ...
    def handle(self, event: Event, now: float, wall: float) -> list[Effect]: ...


class Driver:
    """Passes events to the machine in order of arrival, and its effects to ``perform``, one by one.

    ``settle`` runs after every turn, before other tasks run.  Neither of them may :meth:`hand` an event.
    """

    def __init__(
        self,
        machine: NodeMachine,
        perform: Callable[[Effect], None],
        wall: Callable[[], float],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._machine = machine
        self._perform = perform
        self._settle = settle
        self._wall = wall
        self._events: deque[Event] = deque()
        self._from: Counter[PeerId] = Counter()
        self._received = 0
        self._handed = BATCH  # nothing is handled inline before the machine has started
        self._until = float("inf")
        self._due: dict[TimerKey, float] = {}
        self._heap: list[tuple[float, int, TimerKey]] = []
        self._order = itertools.count()
        self._work = AutoResetEvent()
        self._room: trio.Event | None = None
        self._idle: trio.Event | None = None
        self.faults = 0

    def put(self, event: Event) -> None:
        """Queue an event of this node itself; it is always accepted."""
        self._events.append(event)
        self._work.set()

    def full(self, peer: PeerId) -> bool:
        """Whether a message of this peer must wait, because its queue or the whole queue is full."""
        return self._received >= INBOX or self._from.get(peer, 0) >= INBOX_PER_PEER

    async def room(self) -> None:
        """Wait until the queue is shorter."""
        self._room = self._room or trio.Event()
        await self._room.wait()

    def hand(self, event: Event) -> None:
        """Take an event from a link, and handle it inline if possible.  Callers check ``full`` before a message."""
        if not self._events and self._handed < BATCH:
            self._handed += 1
            self._feed(event)
            self._settle()
            if self._heap and self._heap[0][0] < self._until:
                self._work.set()
            return
        if isinstance(event, Received):
            self._received += 1
            self._from[event.peer] += 1
        self.put(event)

    async def settled(self) -> None:
        """Wait until all queued events have been handled."""
        while self._events:
            self._idle = self._idle or trio.Event()
            await self._idle.wait()

    async def run(self) -> None:
        """Drive until cancelled.  A defect of the machine is logged, and the machine continues."""
        self._guarded("start", self._machine.start)
        self._handed = 0
        self._settle()
        while True:
            if self._events:
                await trio.lowlevel.checkpoint()
            else:
                _set(self._idle)
                self._idle = None
                self._until = self._heap[0][0] if self._heap else float("inf")
                await self._work.wait_until(self._until)
            self._turn()

    def _turn(self) -> None:
        self._work.clear()
        self._handed = 0
        self._handle_batch()
        self._fire_timers()
        self._settle()

    def _handle_batch(self) -> None:
        for _ in range(min(BATCH, len(self._events))):
            event = self._events.popleft()
            if isinstance(event, Received):
                self._received -= 1
                self._from[event.peer] -= 1
                if not self._from[event.peer]:
                    del self._from[event.peer]
            self._feed(event)
        _set(self._room)
        self._room = None

    def _fire_timers(self) -> None:
        now = trio.current_time()
        ripe: list[TimerKey] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                del self._due[key]
                ripe.append(key)
        # Only these.  A timer that they set again, even for now, waits for the next round, so that other tasks run.
        for key in ripe:
            self._feed(TimerFired(key))

    def _feed(self, event: Event) -> None:
        self._guarded(event, self._machine.handle, event)

    def _guarded(self, what: object, step: Callable[..., list[Effect]], *events: Event) -> None:
        """Log a defect of the machine, and continue with the next event: a defect must not end the node."""
        try:
            for effect in step(*events, trio.current_time(), self._wall()):
                if isinstance(effect, SetTimer):
                    self._set_timer(effect)
                else:
                    self._perform(effect)
        except Exception:
            self.faults += 1
            log.exception(
                "machine_defect", extra={"what": what if isinstance(what, str) else type(what).__name__, "note": DEFECT}
            )

    def _set_timer(self, timer: SetTimer) -> None:
        self._due[timer.key] = timer.at
        heapq.heappush(self._heap, (timer.at, next(self._order), timer.key))
        if len(self._heap) > 2 * len(self._due) + BATCH:  # moved timers leave their old entries in the heap
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)


def _set(event: trio.Event | None) -> None:
    """Set an event, if a task waits for it; usually none does, and no event was made."""
    if event is not None:
        event.set()
