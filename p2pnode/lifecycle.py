"""How a node does not start, and how it is asked to end: SIGINT or SIGTERM once means "finish what runs",
twice means "now".  A node of the demo or of a test is also asked to end when its parent is gone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

#: Environment of a node that must not outlive the process that started it, whose pipe is its standard input.
PARENT_VARIABLE: Final = "P2PNODE_ENDS_WITH_STDIN"
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class CannotStart(Exception):
    """The node cannot start; the message is one line that says what to do."""


class WrongFlag(CannotStart):
    """The node was told something that it cannot be: a mistake on the command line, not of the machine."""


@contextmanager
def starting(*problems: type[Exception]) -> Iterator[None]:
    """Whatever goes wrong in here in one of these ways means that the node cannot start, and their text says why."""
    try:
        yield
    except CannotStart:
        raise
    except problems as error:
        raise CannotStart(str(error)) from None
    except BaseExceptionGroup as group:
        found, rest = group.split(problems)
        if found is None or rest is not None:
            raise
        cause = first_of(found)
        raise (cause if isinstance(cause, CannotStart) else CannotStart(str(cause))) from None


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception in a group of groups."""
    inner = group.exceptions[0]
    return first_of(inner) if isinstance(inner, BaseExceptionGroup) else inner


class Stopping:
    """What was asked of this process so far."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.now = trio.Event()
        #: The end is decided and the process about to go: a signal that still comes changes nothing.
        self.settled = False

    def ask(self) -> None:
        """One more request to end."""
        (self.now if self.asked.is_set() else self.asked).set()


async def watch_signals(stopping: Stopping, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Turn signals into requests to end, for ever."""
    with _heard(stopping):
        task_status.started()
        await trio.sleep_forever()


@contextmanager
def _heard(stopping: Stopping) -> Iterator[None]:
    """Hear signals; afterwards they mean what they meant before, or nothing if the end is settled.

    Not ``trio.open_signal_receiver``: it puts the old actions back, and then a SIGTERM in the last milliseconds of a
    clean end would be the death of the process.
    """
    token = trio.lowlevel.current_trio_token()

    def hear(number: int, frame: FrameType | None) -> None:
        del number, frame
        token.run_sync_soon(stopping.ask)

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, signal.SIG_IGN if stopping.settled else action)


async def watch_parent(stopping: Stopping, environ: Mapping[str, str] = os.environ, stdin: int = 0) -> None:
    """Where whoever started this node wants it so: ask it to end when its standard input does."""
    if environ.get(PARENT_VARIABLE) == "1":
        # Nobody writes into that pipe, so that it is readable means that its other end was closed.
        await trio.lowlevel.wait_readable(stdin)
        stopping.ask()
