"""Many runs at once.  Each run gets its own process, which isolates memory and crashes.

A child runs one point with one seed.  A thread of the child reports progress and listens for the order to stop; after
that order the run ends at the next tick and returns its partial results.  The first ctrl-C (or SIGTERM) asks all
children to stop, the second kills them.  Results are in the order of the sweep and the seeds, not of completion.

Not here: one run (``run``), the results file (``results``).
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import resource
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, Final, Protocol

from simulations.experiment.loading import Loaded, Point, label
from simulations.experiment.overrides import SHIPPED, Overrides
from simulations.run import RunProgress
from simulations.scenario import Scenario

#: ``module:function`` that runs one scenario with one seed.
ENTRY_POINT: Final = "simulations.run:run"
#: Seconds between two words of a child about how far it is, and between two looks at the children.
WORD_S: Final = 0.2
#: A child of which nothing was heard this long after it ended has nothing to say.
LAST_WORD_S: Final = 1.0
#: Threads of numpy's libraries in a child; more make sums depend on the machine, and there are processes enough.
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, slots=True)
class Planned:
    """One run that is to be made."""

    scenario: Scenario
    point: Point
    seed: int
    #: Words of the command that repeats it.
    repeat: tuple[str, ...]
    until: float | None = None

    @property
    def of_s(self) -> float:
        """How long it is, virtual seconds."""
        return self.scenario.duration_s if self.until is None else min(self.until, self.scenario.duration_s)

    @property
    def label(self) -> str:
        """Point and seed in a few words."""
        point = label(self.point)
        return f"{point}, seed {self.seed}" if point else f"seed {self.seed}"

    def command(self, until: float | None = None) -> str:
        """The command that repeats it, as far as ``until``."""
        until = self.until if until is None else until
        words = [*self.repeat, *(() if until is None else ("--until", f"{until:.6g}"))]
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Made:
    """One finished run: its place in the results, and its cost."""

    run: dict[str, Any]
    timing: dict[str, Any]


class Audience(Protocol):
    """Who is told how it goes (``progress``)."""

    def begins(self, index: int, planned: Planned) -> None:
        """A run begins."""

    def goes(self, index: int, word: RunProgress) -> None:
        """A run is so far."""

    def ends(self, index: int, made: Made | None) -> None:
        """A run is over; None if it was killed."""

    def stopping(self) -> None:
        """All runs were asked to stop."""


def plan(loaded: Loaded, until: float | None = None) -> list[Planned]:
    """Every point with every seed."""
    planned = []
    for point, scenario in loaded.points:
        for seed in loaded.scenario.seeds:
            file = loaded.path.stem if loaded.path.parent == SHIPPED else str(loaded.path)
            repeat = repeat_words(file, point, seed, loaded.overrides)
            planned.append(Planned(scenario, point, seed, repeat, until))
    return planned


def repeat_words(file: str, point: Point, seed: int, overrides: Overrides) -> tuple[str, ...]:
    """The command for one point and seed; the point is written as ``--set`` options, after all others."""
    words = ["p2pnode", "sim", "run", file, "--seed", str(seed), *overrides.words()]
    for key, value in point.items():
        words += ["--set", f"{key}={toml_text(value)}"]
    return tuple(words)


def toml_text(value: Any) -> str:
    """A value as it would stand in a TOML file, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_text(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


# --- in the child ----------------------------------------------------------------------------------------------------


def one_run(planned: Planned, entry_point: str = ENTRY_POINT, progress: RunProgress | None = None) -> Made:
    """Make a run here and now.  An exception becomes its ``error``."""
    wall, cpu = time.perf_counter(), time.process_time()
    end_s = end_cpu_s = 0.0
    entry = _blank(planned)
    trace = ""
    try:
        module, _, function = entry_point.partition(":")
        run = getattr(importlib.import_module(module), function)
        outcome = run(planned.scenario, planned.seed, progress, planned.until)
        entry |= {name: getattr(outcome, name) for name in entry if hasattr(outcome, name)}
        end_s, end_cpu_s = outcome.end_s, outcome.end_cpu_s - cpu
        if outcome.breach is not None:
            entry["breach"] = _breach(outcome.breach, planned)
    except Exception as error:  # any error ends this run only, not the others
        trace = traceback.format_exc()
        entry = _blank(planned, f"{type(error).__name__}: {error}")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    speed = round(end_s / end_cpu_s, 3) if end_cpu_s > 0 else None
    cost = _timing(planned, entry, wall, cpu, speed) | {"repeat": planned.command()}
    return Made(entry, cost | ({"traceback": trace} if trace else {}))


def _blank(planned: Planned, error: str = "") -> dict[str, Any]:
    """A run of which nothing is known yet, or nothing but that it crashed."""
    return {
        "point": planned.point,
        "seed": planned.seed,
        "digest": "",
        "events": 0,
        "virtual_s": 0.0,
        "partial": False,
        "breach": None,
        "error": {"what": error, "repeat": planned.command()} if error else None,
        "metrics": {},
        "curves": {},
        "series": {},
        "heat": {},
    }


def _breach(breach: dict[str, Any], planned: Planned) -> dict[str, Any]:
    """A broken invariant, with the command that leads there."""
    return {**breach, "repeat": planned.command(min(math.ceil(breach["at_s"]) + 1.0, planned.of_s))}


def _timing(planned: Planned, entry: dict[str, Any], wall: float, cpu: float, speed: float | None) -> dict[str, Any]:
    """The cost of a run.  ``speed`` leaves out the rest after the end, which has no new jobs and goes fast."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "point": planned.point,
        "seed": planned.seed,
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "virtual_per_cpu_s": speed,
        "events_per_cpu_s": round(entry["events"] / cpu) if cpu > 0 else None,
        "peak_mib": round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1),
    }


def _child(planned: Planned, entry_point: str, pipe: Connection, stop: Any) -> None:
    """The whole life of a child.  ctrl-C reaches both the child and its parent; the parent decides what to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    progress = RunProgress()
    over = threading.Event()

    def tell() -> None:
        while not over.wait(WORD_S):
            if stop.is_set():
                progress.stop = True
            try:
                pipe.send(progress)
            except OSError:
                os._exit(1)  # the parent is gone: no process reads the result

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    made = one_run(planned, entry_point, progress)
    over.set()
    teller.join()
    with suppress(OSError):
        pipe.send(made)
    pipe.close()


# --- in the parent ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Running:
    index: int
    process: Any
    pipe: Connection
    made: Made | None = None


@dataclass(slots=True)
class RunPool:
    """All runs of a plan, so many at once, or in this process (0).

    Theory of operation: ``waiting`` → a child in ``running`` → ``made``.
    """

    planned: Sequence[Planned]
    jobs: int
    audience: Audience
    entry_point: str = ENTRY_POINT
    made: dict[int, Made] = field(default_factory=dict)
    #: How often the user said stop.
    stops: int = 0
    _waiting: list[int] = field(default_factory=list)
    _running: list[_Running] = field(default_factory=list)
    #: The input of the run in this process, if there is one.
    _word: RunProgress | None = None

    @property
    def interrupted(self) -> bool:
        """Whether the user had enough."""
        return self.stops > 0

    def all(self) -> list[Made]:
        """Make them; in order, without those that were not begun or were killed."""
        if not self.jobs:
            return self._here()
        self._waiting = list(range(len(self.planned)))
        context = _context()
        stop = context.Event()
        with _inherited(), self._listening():
            try:
                while (self._waiting and not self.stops) or self._running:
                    self._fill(context, stop)
                    self._look(stop)
            finally:
                self._kill()
        return [self.made[index] for index in sorted(self.made)]

    def _fill(self, context: Any, stop: Any) -> None:
        while self._waiting and len(self._running) < self.jobs and not self.stops:
            index = self._waiting.pop(0)
            here, there = context.Pipe(duplex=False)
            arguments = (self.planned[index], self.entry_point, there, stop)
            process = context.Process(target=_child, args=arguments, daemon=True)
            # It ignores ctrl-C from its first instruction, not only once it has got so far.
            with _handled(signal.SIG_IGN, signal.SIGINT):
                process.start()
            there.close()
            self._running.append(_Running(index, process, here))
            self.audience.begins(index, self.planned[index])

    def _look(self, stop: Any) -> None:
        if self.stops and not stop.is_set():
            stop.set()
            self.audience.stopping()
        if self.stops > 1:
            self._kill()
            return
        ready = wait([running.pipe for running in self._running], timeout=WORD_S)
        for running in [each for each in self._running if each.pipe in ready]:
            self._hear(running)

    def _hear(self, running: _Running) -> None:
        try:
            said = running.pipe.recv()
        except (EOFError, OSError):
            self._gone(running)
            return
        if isinstance(said, RunProgress):
            self.audience.goes(running.index, said)
        else:
            running.made = said

    def _gone(self, running: _Running) -> None:
        """The pipe is closed: the child has ended, well or badly."""
        running.process.join(LAST_WORD_S)
        running.pipe.close()
        self._running.remove(running)
        made = running.made
        if made is None and not self.stops:
            made = _died(self.planned[running.index], running.process.exitcode)
        if made is not None:
            self.made[running.index] = made
        self.audience.ends(running.index, made)

    def _kill(self) -> None:
        for running in self._running:
            running.process.kill()
        for running in self._running:
            running.process.join()
            running.pipe.close()
            self.audience.ends(running.index, None)
        self._running.clear()

    def _here(self) -> list[Made]:
        """One after the other in this very process, for a debugger or a profiler."""
        with self._listening():
            for index, each in enumerate(self.planned):
                if self.stops:
                    break
                self.audience.begins(index, each)
                self._word = RunProgress()
                with suppress(KeyboardInterrupt):  # the second
                    self.made[index] = one_run(each, self.entry_point, self._word)
                self._word = None  # the report must not be interrupted
                self.audience.ends(index, self.made.get(index))
        return list(self.made.values())

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """ctrl-C and SIGTERM are counted here; a run in this process is told, and the second time it is ended."""

        def heard(number: int, frame: FrameType | None) -> None:
            del number, frame
            self.stops += 1
            if self._word is None:
                return
            if self.stops > 1:
                raise KeyboardInterrupt
            self._word.stop = True
            self.audience.stopping()

        with _handled(heard, signal.SIGINT, signal.SIGTERM):
            yield


def _died(planned: Planned, code: int | None) -> Made:
    """A description of a child that ended without a report."""
    how = f"exit code {code}"
    if code is not None and code < 0:
        with suppress(ValueError):
            how = signal.Signals(-code).name
    what = f"the process ended with {how}" + (": out of memory?" if how == "SIGKILL" else "")
    return Made(_blank(planned, what), {"point": planned.point, "seed": planned.seed, "repeat": planned.command()})


def _context() -> Any:
    """Children are forked from a clean process that has imported everything, where there is such a thing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["simulations.run"])
    return context


@contextmanager
def _inherited() -> Iterator[None]:
    """Children compute with one thread each, and find the very code that runs here, not what lies where they start."""
    code = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)}
    given = dict.fromkeys(_ONE_THREAD, "1") | code
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _handled(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    """Signals go to this handler meanwhile; only the main thread may say so."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers if main}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
