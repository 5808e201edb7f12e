"""What owns the machine of a node: one inbox, one order, timers that come back as events.

The machine never waits and nothing else touches it.  What comes from peers while nothing else waits is handled where
it was read: a turn of the driver's own task costs more than most of it.  That task has the timers, and what had to
stand in line: what this node itself has to say, which is always taken, and what comes too fast.  Of peers so much may
stand there; the rest waits outside, so a peer that talks too much slows down its own link and no other.
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

#: Messages of peers that may wait, in all and of one peer (guess: 64 KiB each at the worst, so 32 MiB).
INBOX: Final = 512
INBOX_PER_PEER: Final = 32
#: Events handled before other tasks run (guess: a few milliseconds), and handled where they were read before the task
#: of the driver, which waits for its turn as others do, has looked in.
BATCH: Final = 64


class NodeMachine(Protocol):
    """What is driven: ``protocol.node.Node``."""

    def start(self, now: float, wall: float) -> list[Effect]: ...
    def handle(self, event: Event, now: float, wall: float) -> list[Effect]: ...


class Driver:
    """Feeds events to the machine in the order they came and hands its effects to ``perform``, one by one.

    ``settle`` is called after every turn, before other tasks run.  Nothing that either does may :meth:`hand` an event.
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
        self._handed = BATCH  # nothing is handed on before the machine has begun
        self._until = float("inf")
        self._due: dict[TimerKey, float] = {}
        self._heap: list[tuple[float, int, TimerKey]] = []
        self._order = itertools.count()
        self._work = AutoResetEvent()
        self._room: trio.Event | None = None
        self._idle: trio.Event | None = None
        self.faults = 0

    def put(self, event: Event) -> None:
        """An event of this node itself: taken at once."""
        self._events.append(event)
        self._work.set()

    def full(self, peer: PeerId) -> bool:
        """Whether a message of that peer has to wait: too many of its own, or of all, are unread."""
        return self._received >= INBOX or self._from.get(peer, 0) >= INBOX_PER_PEER

    async def room(self) -> None:
        """Wait until some have been read."""
        self._room = self._room or trio.Event()
        await self._room.wait()

    def hand(self, event: Event) -> None:
        """What came over a link, and if it is a message there is room for it; handled at once if it can be."""
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
        """Wait until everything put so far has been handled."""
        while self._events:
            self._idle = self._idle or trio.Event()
            await self._idle.wait()

    async def run(self) -> None:
        """Drive until cancelled.  A fault of the machine is logged, and the machine goes on."""
        self._guarded("start", self._machine.start)
        self._handed = 0
        self._settle()
        while True:
            if self._events:
                await trio.lowlevel.checkpoint()
            else:
                _tell(self._idle)
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
        _tell(self._room)
        self._room = None

    def _fire_timers(self) -> None:
        now = trio.current_time()
        ripe: list[TimerKey] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                del self._due[key]
                ripe.append(key)
        # Only these: what they set anew, even for now, waits for the next round, so that other tasks run.
        for key in ripe:
            self._feed(TimerFired(key))

    def _feed(self, event: Event) -> None:
        self._guarded(event, self._machine.handle, event)

    def _guarded(self, what: object, step: Callable[..., list[Effect]], *events: Event) -> None:
        """No fault of ours ends the node: what a step of the machine cannot do is left undone, loudly."""
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
        if len(self._heap) > 2 * len(self._due) + BATCH:  # timers that were moved leave their old entries behind
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)


def _tell(event: trio.Event | None) -> None:
    """Wake whoever waits for something that has come about; most often nobody does, and no event was made."""
    if event is not None:
        event.set()
