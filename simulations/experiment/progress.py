"""Shows the progress of the runs on stderr: bars on a terminal, plain lines elsewhere.

Per run it shows virtual time, speed in virtual seconds per second, and finished jobs.  For all runs together it shows
the finished runs and the remaining time.  The estimate counts virtual seconds times nodes, because in a sweep over
sizes one run costs a hundred times another.  Not here: the output at the end (``cli``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from simulations.experiment.run_pool import Made, Planned
from simulations.run import RunProgress

if TYPE_CHECKING:
    from types import TracebackType

#: Seconds between two plain lines about a run.
LINE_S: Final = 10.0
#: Characters of a run's name beside its bar.
NAME_WIDTH: Final = 40


class Clock(Protocol):
    """Seconds that go on."""

    def __call__(self) -> float: ...


@dataclass(slots=True)
class Tally:
    """The finished part of a plan."""

    planned: Sequence[Planned]
    clock: Clock = time.monotonic
    done: int = 0
    began: dict[int, float] = field(default_factory=dict)
    virtual: dict[int, float] = field(default_factory=dict)
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.clock()

    def begins(self, index: int) -> None:
        """A run begins."""
        self.began[index] = self.clock()

    def goes(self, index: int, virtual_s: float) -> None:
        """A run is so far."""
        self.virtual[index] = virtual_s

    def ends(self, index: int) -> None:
        """A run is over, and counts as whole."""
        self.done += 1
        self.virtual[index] = self.planned[index].of_s

    def speed(self, index: int) -> float:
        """Virtual seconds per second of a run."""
        passed = self.clock() - self.began.get(index, self.started)
        return self.virtual.get(index, 0.0) / passed if passed > 0 else 0.0

    def left_s(self) -> float | None:
        """Seconds until all runs end at the present speed; None before the first report."""
        nodes = [planned.scenario.topology.nodes for planned in self.planned]
        whole = sum(planned.of_s * count for planned, count in zip(self.planned, nodes, strict=True))
        made, passed = sum(s * nodes[index] for index, s in self.virtual.items()), self.clock() - self.started
        return (whole - made) * passed / made if made > 0 and passed > 0 else None


def clock_text(seconds: float | None) -> str:
    """``1:02:03`` or ``2:03``."""
    if seconds is None:
        return "-:--"
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def word_text(word: RunProgress, of_s: float, speed: float) -> str:
    """Speed and jobs of a run; after its end, the jobs that it still waits for."""
    if word.waiting:
        rest = f"{word.rest_s:,.0f} s more for {word.waiting:,} jobs under way"
        return f"{of_s:,.0f} s, {rest}, {word.jobs:,} jobs"
    return f"{word.virtual_s:,.0f} of {of_s:,.0f} s, {speed:,.{1 if speed >= 1 else 2}f} s/s, {word.jobs:,} jobs"


class Lines:
    """Plain lines: one when a run ends, and one now and then while it goes."""

    def __init__(self, planned: Sequence[Planned], console: Console, clock: Clock = time.monotonic) -> None:
        self._tally = Tally(planned, clock)
        self._console = console
        self._clock = clock
        self._said: dict[int, float] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def begins(self, index: int, planned: Planned) -> None:
        """A run begins."""
        del planned
        self._tally.begins(index)
        self._said[index] = self._clock()

    def goes(self, index: int, word: RunProgress) -> None:
        """A run is so far."""
        self._tally.goes(index, word.virtual_s)
        if self._clock() - self._said[index] >= LINE_S:
            self._said[index] = self._clock()
            planned = self._tally.planned[index]
            far = word_text(word, planned.of_s, self._tally.speed(index))
            if not word.waiting:
                far += f", {clock_text(self._tally.left_s())} left"
            self._say(f"{planned.label}: {far}")

    def ends(self, index: int, made: Made | None) -> None:
        """A run is over."""
        self._tally.ends(index)
        done = f"[{self._tally.done}/{len(self._tally.planned)}]"
        self._say(f"{done} {self._tally.planned[index].label}: {ending(made)}")

    def stopping(self) -> None:
        """All runs were asked to stop."""
        self._say("stopping: what is done will be written; ctrl-C again to end at once")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


class Bars:
    """Bars that move: one for each run under way, one for all."""

    def __init__(self, planned: Sequence[Planned], console: Console) -> None:
        self._tally = Tally(planned)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[far]}", markup=False),
            console=console,
            transient=True,
        )
        self._tasks: dict[int, TaskID] = {}
        whole = sum(each.of_s for each in planned)
        self._whole = self._bars.add_task(f"{len(planned)} runs", total=whole, far="")

    def __enter__(self) -> Bars:
        self._bars.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.__exit__(kind, error, at)

    def begins(self, index: int, planned: Planned) -> None:
        """A run begins."""
        self._tally.begins(index)
        name = planned.label if len(planned.label) <= NAME_WIDTH else f"…{planned.label[1 - NAME_WIDTH :]}"
        self._tasks[index] = self._bars.add_task(name, total=planned.of_s, far="")

    def goes(self, index: int, word: RunProgress) -> None:
        """A run is so far."""
        self._tally.goes(index, word.virtual_s)
        far = word_text(word, self._tally.planned[index].of_s, self._tally.speed(index))
        self._bars.update(self._tasks[index], completed=word.virtual_s, far=far)
        self._all()

    def ends(self, index: int, made: Made | None) -> None:
        """A run is over; a failed run stays on the screen."""
        self._tally.ends(index)
        self._bars.remove_task(self._tasks.pop(index))
        if made is None or made.run["error"] or made.run["breach"]:
            text = f"{self._tally.planned[index].label}: {ending(made)}"
            self._bars.console.print(text, markup=False, soft_wrap=True)
        self._all()

    def stopping(self) -> None:
        """All runs were asked to stop."""
        self._bars.update(self._whole, description="stopping (ctrl-C again to end at once)")

    def _all(self) -> None:
        done = f"{self._tally.done}/{len(self._tally.planned)} done, {clock_text(self._tally.left_s())} left"
        self._bars.update(self._whole, completed=sum(self._tally.virtual.values()), far=done)


def ending(made: Made | None) -> str:
    """How a run ended, in a few words."""
    if made is None:
        return "killed"
    run, timing = made.run, made.timing
    if run["error"]:
        return f"crashed: {run['error']['what']}"
    if run["breach"]:
        return f"broke {run['breach']['invariant']} at {run['breach']['at_s']:g} s: {run['breach']['what']}"
    stopped = ", stopped" if run["partial"] else ""
    return f"{run['virtual_s']:,.0f} s in {timing['wall_s']:.1f} s, {run['events']:,} events{stopped}"


def shown_on(console: Console, planned: Sequence[Planned]) -> Any:
    """Bars if the console can show them, else lines; a context manager that is an ``Audience``."""
    shown: AbstractContextManager[Any] = Bars(planned, console) if console.is_terminal else Lines(planned, console)
    return shown
