"""How a node does not start, and how it is asked to end: SIGINT or SIGTERM once means "finish what runs",
twice means "now".

Who calls it: the composition roots (``node`` and ``bootstrap.node``).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class CannotStart(Exception):
    """The node cannot start; the message is one line that says what to do."""


@contextmanager
def starting(*problems: type[Exception]) -> Iterator[None]:
    """Whatever goes wrong in here in one of these ways means that the node cannot start, and their text says why."""
    try:
        yield
    except problems as error:
        raise CannotStart(str(error)) from None
    except BaseExceptionGroup as group:
        found, rest = group.split(problems)
        if found is None or rest is not None:
            raise
        raise CannotStart(str(first_of(found))) from None


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception in a group of groups."""
    inner = group.exceptions[0]
    return first_of(inner) if isinstance(inner, BaseExceptionGroup) else inner


class Stopping:
    """What was asked of this process so far."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.now = trio.Event()

    def ask(self) -> None:
        """One more request to end."""
        (self.now if self.asked.is_set() else self.asked).set()


async def watch_signals(stopping: Stopping, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Turn signals into requests to end, for ever."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            stopping.ask()
