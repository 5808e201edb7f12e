"""An event for one who waits: cheaper than ``trio.Event``, and silent again once it was heard.

The tasks of a link are woken for every message; making a new ``trio.Event`` each time, with the parking lot behind it,
costs as much as what they then do.  ``set`` is named as in ``trio.Event``, because py-libp2p rings as well
(``containment``).
"""

from __future__ import annotations

from typing import Any

from trio import CancelScope
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    reschedule,
    wait_task_rescheduled,
)


class AutoResetEvent:
    """Rung any number of times, heard once.  Only one task may wait at a time."""

    __slots__ = ("_rung", "_waiting")

    def __init__(self) -> None:
        self._rung = False
        self._waiting: Task | None = None

    def set(self) -> None:
        """Wake whoever waits, or let the next one pass."""
        task = self._waiting
        if task is None:
            self._rung = True
        else:
            self._waiting = None
            reschedule(task)

    def clear(self) -> None:
        """Forget what was rung: the caller has looked for itself."""
        self._rung = False

    def is_set(self) -> bool:
        """Whether the next one passes."""
        return self._rung

    async def wait(self) -> None:
        """Until it rings, or rang since it was last heard."""
        if self._rung:
            await checkpoint()
            self._rung = False
            return
        if self._waiting is not None:
            raise RuntimeError("two tasks wait for one bell")
        self._waiting = current_task()
        await wait_task_rescheduled(self._abort)

    async def wait_until(self, deadline: float) -> None:
        """:meth:`wait`, but no longer than until then.

        A scope around ``wait`` does the same for a third more: it ends the waiting by an exception, through every
        frame.  Here the end of the time is another ring.
        """
        if self._rung or self._waiting is not None:
            await self.wait()
            return
        self._waiting = current_task()
        with CancelScope(deadline=deadline):
            await wait_task_rescheduled(self._ring)
        await checkpoint_if_cancelled()

    def _ring(self, _: Any) -> Abort:
        self.set()
        return Abort.FAILED

    def _abort(self, _: Any) -> Abort:
        self._waiting = None
        return Abort.SUCCEEDED
