"""An event for one waiting task, which resets itself and costs less than ``trio.Event``.

Every message wakes a task of its link.  A new ``trio.Event`` each time, with its parking lot, would cost as much as
the work that follows.  ``set`` has the name of ``trio.Event``'s, because py-libp2p calls it as well.
Not for several waiting tasks.
"""

from __future__ import annotations

from trio import CancelScope
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    reschedule,
    wait_task_rescheduled,
)


class AutoResetEvent:
    """Several calls of ``set`` wake one ``wait``.  Only one task may wait at a time."""

    __slots__ = ("_flag", "_waiting")

    def __init__(self) -> None:
        self._flag = False
        self._waiting: Task | None = None

    def set(self) -> None:
        """Wake the waiting task, or let the next ``wait`` return at once."""
        task = self._waiting
        if task is None:
            self._flag = True
        else:
            self._waiting = None
            reschedule(task)

    def clear(self) -> None:
        """Reset the flag; the caller has checked its condition itself."""
        self._flag = False

    def is_set(self) -> bool:
        """Whether the next ``wait`` returns at once."""
        return self._flag

    async def wait(self) -> None:
        """Wait until ``set`` is called, or return at once if it was called since the last ``wait``."""
        if self._flag:
            await checkpoint()
            self._flag = False
            return
        if self._waiting is not None:
            raise RuntimeError("two tasks wait for one event")
        self._waiting = current_task()
        await wait_task_rescheduled(self._abort)

    async def wait_until(self, deadline: float) -> None:
        """:meth:`wait`, but at most until ``deadline``.

        A cancel scope around ``wait`` costs a third more, because it ends the wait with an exception through every
        frame.  Here the deadline acts as a call of ``set``.
        """
        if self._flag or self._waiting is not None:
            await self.wait()
            return
        self._waiting = current_task()
        with CancelScope(deadline=deadline):
            await wait_task_rescheduled(self._on_deadline)
        await checkpoint_if_cancelled()

    def _on_deadline(self, _: RaiseCancelT) -> Abort:
        self.set()
        return Abort.FAILED

    def _abort(self, _: RaiseCancelT) -> Abort:
        self._waiting = None
        return Abort.SUCCEEDED
