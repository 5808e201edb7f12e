"""Drives ``protocol.jobs.admission``: it assigns the engine's slots to this node's own jobs and to guests' jobs.

There is one per engine, so that it counts both kinds.  The holder of a ``Slot`` may use the engine once ``wait``
returns, and frees the slot when it leaves the block.  Not here: what a job does with the engine (``execute``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from protocol.ids import PeerId
from protocol.jobs.admission import (
    Admission,
    AdmissionEvent,
    Admit,
    Arrived,
    Drain,
    Expect,
    FirstOutput,
    Left,
    Queue,
    Ready,
    SlotsAre,
    TurnAway,
)
from protocol.settings import AdmissionSettings
from protocol.wire.messages import Busy, Refuse

if TYPE_CHECKING:
    from p2pnode.engine.base import Engine


class TurnedAway(Exception):
    """The job was not admitted; ``message`` is the answer to its sender."""

    def __init__(self, message: Busy | Refuse) -> None:
        super().__init__(str(message))
        self.message = message


class Slot:
    """A job's slot at the engine, or its position in the queue.  Leaving the block frees it."""

    def __init__(self, owner: EngineSlots, number: int) -> None:
        self._owner = owner
        self._number = number
        self._admitted = trio.Event()
        #: Jobs before it on arrival, and the promised seconds to its first token.
        self.position = 0
        self.promise_s = 0.0

    async def wait(self) -> None:
        """Wait until the job is admitted."""
        await self._admitted.wait()

    def ready(self) -> None:
        """The request arrived completely; before that the job is not admitted."""
        self._owner.feed(Ready(self._number))

    def first_output(self) -> None:
        """A piece of a stream arrived; only the first call counts."""
        self._owner.feed(FirstOutput(self._number))

    def leave(self) -> None:
        """Free the slot; no effect if it is free."""
        self._owner.feed(Left(self._number))

    def admit(self) -> None:
        """Admit the job (called by ``EngineSlots``)."""
        self._admitted.set()

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class EngineSlots:
    """See the module's docstring."""

    def __init__(self, engine: Engine, settings: AdmissionSettings) -> None:
        self._engine = engine
        self._count = max(1, engine.load().slots)
        self._machine = Admission(settings, self._count)
        self._slots: dict[int, Slot] = {}
        self._numbers = itertools.count()
        #: Called after each change.
        self.changed: Callable[[], object] = lambda: None

    @property
    def running(self) -> int:
        return self._machine.running

    @property
    def waiting(self) -> int:
        return self._machine.waiting

    def jobs_of_peers(self) -> dict[PeerId, int]:
        """How many jobs of each peer run or wait."""
        return self._machine.jobs_of_peers()

    def arrive(self, peer: PeerId | None, prompt_tokens: int, stream: bool, ready: bool = True) -> Slot:
        """Request a slot for a job of ``peer`` (None: this node's own); raises ``TurnedAway``.

        Without ``ready``, the caller calls ``Slot.ready`` once the request has arrived completely.
        """
        slots = max(1, self._engine.load().slots)
        if slots != self._count:
            self._count = slots
            self.feed(SlotsAre(slots))
        number = next(self._numbers)
        slot = self._slots[number] = Slot(self, number)
        turned_away = self.feed(Arrived(number, peer, prompt_tokens, stream, ready))
        if turned_away is not None:
            del self._slots[number]
            raise TurnedAway(turned_away)
        return slot

    def drain(self) -> None:
        """Admit no more jobs of guests."""
        self.feed(Drain())

    def feed(self, event: AdmissionEvent) -> Busy | Refuse | None:
        """Give the machine an event and perform its effects; returns the message that turns a job away."""
        turned_away = None
        for effect in self._machine.handle(event, trio.current_time()):
            match effect:
                case Admit(number, promise_s):
                    slot = self._slots[number]
                    slot.promise_s = slot.promise_s or promise_s
                    slot.admit()
                case Queue(number, position, promise_s):
                    self._slots[number].position = position + 1
                    self._slots[number].promise_s = promise_s
                case Expect(number, promise_s):
                    self._slots[number].promise_s = promise_s
                case TurnAway(_, message):
                    turned_away = message
        if isinstance(event, Left):
            self._slots.pop(event.job, None)
        self.changed()
        return turned_away
