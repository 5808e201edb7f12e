"""Start failures and stop requests of a node.

The first SIGINT or SIGTERM means "finish running jobs", the second "stop now".  A node of the demo or of a test also
stops when its parent process ends.  Not here: what a node does to stop (``node``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

#: If this is 1, the node stops when its standard input, a pipe from its parent, closes.
PARENT_VARIABLE: Final = "P2PNODE_ENDS_WITH_STDIN"
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class CannotStart(Exception):
    """The node cannot start; the message is one line that says what to do."""


class WrongFlag(CannotStart):
    """A flag has an impossible value: a mistake on the command line, not a problem of the machine."""


@contextmanager
def starting(*problems: type[Exception]) -> Iterator[None]:
    """Turn these exceptions into ``CannotStart`` with the same text."""
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
    """The stop requests that this process has received."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.now = trio.Event()
        #: The process is about to end; a further signal changes nothing.
        self.settled = False

    def ask(self) -> None:
        """Record one more request."""
        (self.now if self.asked.is_set() else self.asked).set()


async def watch_signals(stopping: Stopping, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Turn signals into stop requests, for ever."""
    with _signals(stopping):
        task_status.started()
        await trio.sleep_forever()


@contextmanager
def _signals(stopping: Stopping) -> Iterator[None]:
    """Handle signals; afterwards restore the old actions, or ignore signals if the process is about to end.

    ``trio.open_signal_receiver`` always restores them, so a SIGTERM in the last milliseconds of a clean end would
    kill the process.
    """
    token = trio.lowlevel.current_trio_token()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        token.run_sync_soon(stopping.ask)

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, signal.SIG_IGN if stopping.settled else action)


async def watch_parent(stopping: Stopping, environ: Mapping[str, str] = os.environ, stdin: int = 0) -> None:
    """Stop the node when its standard input closes, if ``PARENT_VARIABLE`` is set."""
    if environ.get(PARENT_VARIABLE) == "1":
        # The parent never writes into that pipe, so it becomes readable only when its other end closes.
        await trio.lowlevel.wait_readable(stdin)
        stopping.ask()
