"""Replays traces of real traffic: times and lengths as recorded, shared prefixes of prompts where known.

Theory of operation
===================

``time_scale`` stretches the time of the trace.  Copies of the trace then add up to the wanted rate.  The first copy
begins with the trace, each further one at a random place of it.  The last copy has only as many conversations as the
rate needs.  This keeps the shape over minutes; a trace played faster would not.  A trace that ends before the run
starts again.  Copies and rounds stand for other callers, so they share no blocks.

Mooncake's traces name the 512-token blocks of each prompt; an id stands for the block and all before it.  They become
ids of the engine's blocks: block ``i`` of the engine is named after the place of its last token, which decides whether
two are equal.  Requests that go on where an earlier one was are one session (one entry, one model); blocks that more
than :data:`EVERYBODYS` of the requests begin with tell nothing about that.

A user's own trace is a CSV file with a heading, gzip or not: ``arrival_ms`` or ``arrival_s``, ``input_tokens``,
``output_tokens``, and if known ``model`` (of the catalogue) and ``block_ids`` (``0 14-27`` is 0, 14, 15, ..., 27).

Not here: the sources of the shipped traces (``data/README.md``).
"""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from simulations.rng_streams import rng_stream
from simulations.scenario import Scenario
from simulations.workload.arrivals import BLOCK, Arrival, Callers, Floats, Ints, mixed

#: The shipped traces, by the name that a scenario gives them.
NAMES: Final = ("azure-code", "azure-conv", "mooncake-conversation", "mooncake-synthetic", "servegen")
#: Tokens of a block of a trace (Mooncake).
TRACE_BLOCK: Final = 512
#: Share of the requests from which on a common beginning is a system prompt and not a conversation (guess).
EVERYBODYS: Final = 0.05
#: Most blocks that one request may name: 10 million tokens have as many.  Bounds the cost of a wrong range.
MOST_BLOCKS: Final = 20_000
_TIMES: Final = ("arrival_ms", "arrival_s")

#: A finite time, in either unit.
Time = Annotated[float, Meta(ge=0, lt=1e15)]
Tokens = Annotated[int, Meta(ge=0, lt=1 << 31)]


class _Row(msgspec.Struct):
    """One line of a CSV file.  One of the two times is there."""

    input_tokens: Tokens
    output_tokens: Tokens
    arrival_ms: Time = 0.0
    arrival_s: Time = 0.0
    model: str = ""
    block_ids: str = ""


class BadTrace(ValueError):
    """This trace cannot be read; the text names the place and the correct form."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace in order of time; ``at`` is seconds from its first request.

    ``models`` are names, empty where the trace does not say.  ``conversation`` numbers what belongs together, and
    ``began`` is the place of the first request of each; ``ids`` is how many block ids there are.
    """

    at: Floats
    prompt: Ints
    output: Ints
    models: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]
    conversation: Ints
    began: Ints
    ids: int

    @property
    def span_s(self) -> float:
        """How long it goes on: to the last request, and a mean gap more."""
        if len(self.at) < 2 or self.at[-1] <= 0:
            return 1.0
        return float(self.at[-1]) * len(self.at) / (len(self.at) - 1)

    @property
    def rate_per_s(self) -> float:
        return len(self.at) / self.span_s


def load(name: str) -> Trace:
    """A trace by its name or the path of a file; raises ``BadTrace``."""
    if name in NAMES:
        return _shipped(name)
    path = Path(name)
    if not path.is_file():
        raise BadTrace(f"there is no trace {name!r}: it is neither a file nor one of {', '.join(NAMES)}")
    return _of_file(name, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _of_file(name: str, _mtime_ns: int) -> Trace:
    """Read once for all points of a sweep."""
    raw = Path(name).read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadTrace(f"{name}: not a CSV file in UTF-8 ({error})") from None
    return parse(text, name)


@lru_cache(maxsize=len(NAMES))
def _shipped(name: str) -> Trace:
    raw = resources.files("simulations").joinpath("data", "traces", f"{name}.csv.gz").read_bytes()
    return parse(gzip.decompress(raw).decode(), name)


def parse(text: str, name: str) -> Trace:
    """Read the text of a CSV file; ``name`` is for the error."""
    lines = csv.reader(text.splitlines())
    heading = [column.strip() for column in next(lines, [])]
    _check_heading(heading, name)
    read = []
    for cells in lines:
        if not cells:
            continue
        where = f"{name}:{lines.line_num}"
        if len(cells) != len(heading):
            raise BadTrace(f"{where}: {len(cells)} cells under {len(heading)} columns ({', '.join(heading)})")
        row = _row(dict(zip(heading, map(str.strip, cells), strict=True)), where)
        ids = _block_ids(row.block_ids, where, row.input_tokens)
        read.append((row.arrival_ms * 1e-3 + row.arrival_s, row.input_tokens, row.output_tokens, row.model, ids))
    if not read:
        raise BadTrace(f"{name}: no requests below the heading")
    read.sort(key=lambda row: row[0])
    return _trace(*zip(*read, strict=True))


def _check_heading(heading: list[str], name: str) -> None:
    known, needed = _Row.__struct_fields__, ("input_tokens", "output_tokens")
    times = [column for column in heading if column in _TIMES]
    wrong = [column for column, count in Counter(heading).items() if column not in known or count > 1]
    wrong += [column for column in needed if column not in heading]
    if len(times) != 1:
        wrong += times or ["arrival_ms or arrival_s"]
    if wrong:
        raise BadTrace(
            f"{name}:1: the columns are {', '.join(heading) or 'missing'}, wrong in {', '.join(wrong)}; needed are "
            "arrival_ms or arrival_s, input_tokens, output_tokens, and there may be model, block_ids"
        )


def _row(cells: dict[str, str], where: str) -> _Row:
    try:
        return msgspec.convert(cells, _Row, strict=False)
    except msgspec.ValidationError as error:
        what, _, column = str(error).partition(" - at `$.")
        column = column.rstrip("`")
        raise BadTrace(f"{where}: {column} is {cells[column]!r}: {what}") from None


def _block_ids(text: str, where: str, tokens: int) -> tuple[int, ...]:
    """``0 14-27`` as numbers."""
    ids: list[int] = []
    most = -(-tokens // TRACE_BLOCK)
    for item in text.split():
        first, _, last = item.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
            raise BadTrace(f"{where}: block_ids has {item!r}, neither a number nor a range like 14-27")
        begin, end = int(first), int(last or first) + 1
        if len(ids) + end - begin > min(most, MOST_BLOCKS):
            raise BadTrace(f"{where}: block_ids names more than the {most} blocks of {TRACE_BLOCK} input_tokens")
        ids.extend(range(begin, end))
    return tuple(ids)


def _trace(
    at: tuple[float, ...],
    prompt: tuple[int, ...],
    output: tuple[int, ...],
    models: tuple[str, ...],
    blocks: tuple[tuple[int, ...], ...],
) -> Trace:
    begin = np.array(at) - at[0]
    conversation = _conversations(blocks)
    return Trace(
        at=begin,
        prompt=np.array(prompt),
        output=np.array(output),
        models=models,
        blocks=blocks,
        conversation=conversation,
        began=np.unique(conversation, return_index=True)[1],
        ids=1 + max((max(ids) for ids in blocks if ids), default=0),
    )


def _conversations(blocks: tuple[tuple[int, ...], ...]) -> Ints:
    """Number the requests that continue an earlier one; a request without blocks is by itself."""
    users: dict[int, int] = {}
    for ids in blocks:
        for block in ids:
            users[block] = users.get(block, 0) + 1
    most = max(2, EVERYBODYS * len(blocks))
    owner: dict[int, int] = {}
    numbers: list[int] = []
    count = 0
    for ids in blocks:
        known = next((owner[block] for block in reversed(ids) if block in owner and users[block] <= most), count)
        count += known == count
        numbers.append(known)
        for block in ids:
            owner.setdefault(block, known)
    return np.array(numbers)


# --- replay ----------------------------------------------------------------------------------------------------------


def replay(scenario: Scenario, seed: int, rate_per_s: float) -> Iterator[Arrival]:
    """The trace of the scenario at this rate, or at its own for 0; raises ``BadTrace``, before the first job."""
    workload = scenario.workload
    trace = load(workload.trace)
    _check_models(trace, scenario)
    own = trace.rate_per_s / workload.time_scale
    return _Replay(trace, scenario, seed, (rate_per_s or own) / own).jobs()


def what_is_made(scenario: Scenario) -> str:
    """One line on the use of a trace: its requests, how often it begins again, and up to which rate."""
    workload = scenario.workload
    trace = load(workload.trace)
    span_s = trace.span_s * workload.time_scale
    own = len(trace.at) / span_s
    turns = math.ceil(scenario.duration_s / span_s)
    times = f"played {turns} times over" if turns > 1 else "played once"
    if not (workload.rate_per_s if workload.utilisation is None else workload.utilisation):
        rate = "at its own rate"
    elif workload.utilisation is not None:
        rate = f"thinned or with copies beside it for workload.utilisation = {workload.utilisation:g}"
    elif workload.rate_per_s <= own:
        rate = f"thinned to {workload.rate_per_s / own:.0%} for workload.rate_per_s = {workload.rate_per_s:g}"
    else:
        copies = f"{workload.rate_per_s / own:.3g} copies side by side"
        rate = f"{copies} for workload.rate_per_s = {workload.rate_per_s:g}"
    requests = f"{len(trace.at):,} request{'s' * (len(trace.at) > 1)} in {span_s:.3g} s ({own:.3g}/s)"
    return f"{workload.trace}: {requests}, {times} in {scenario.duration_s:g} s, {rate}"


def check(scenario: Scenario) -> None:
    """Raises ``BadTrace`` if the trace of the scenario cannot be replayed."""
    _check_models(load(scenario.workload.trace), scenario)


def _check_models(trace: Trace, scenario: Scenario) -> None:
    names = [model.name for model in scenario.models.catalogue]
    unknown = sorted({name for name in trace.models if name and name not in names})
    if unknown:
        raise BadTrace(
            f"{scenario.workload.trace}: model {unknown[0]!r} is not in the catalogue of the scenario; "
            f"there are {', '.join(names)}"
        )


class _Replay:
    """Copies of a trace side by side, as many times as ``copies`` says."""

    def __init__(self, trace: Trace, scenario: Scenario, seed: int, copies: float) -> None:
        self._trace = trace
        self._scale = scenario.workload.time_scale
        self._until_s = scenario.duration_s
        self._copies = math.ceil(copies - 1e-9)
        #: Share of the conversations of the last copy.
        self._last = copies - (self._copies - 1)
        rng = rng_stream(seed, "arrivals copies")
        self._starts = [0.0] + [rng.random() * trace.span_s for _ in range(self._copies - 1)]
        self._salts = [rng.getrandbits(64) for _ in range(3)]
        self._callers = Callers(scenario, seed)
        self._block_tokens = scenario.engine.block_tokens
        self._sessions = len(trace.began) if trace.ids > 1 else 0
        names = {name: place for place, name in enumerate(self._callers.names)}
        self._said: Ints = np.array([names.get(model, -1) for model in trace.models])

    def jobs(self) -> Iterator[Arrival]:
        """In order of time, a window at a time; a window of all copies has about :data:`BLOCK` jobs."""
        window_s = BLOCK / (len(self._starts) * self._trace.rate_per_s / self._scale)
        window = 0
        while window * window_s < self._until_s:
            begin, end = window * window_s, min((window + 1) * window_s, self._until_s)
            parts = [part for copy in range(self._copies) for part in self._rows(copy, begin, end)]
            window += 1
            if not parts:
                continue
            at, rows, serial = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(at, kind="stable")
            yield from self._ask(at[order], rows[order], serial[order])

    def _rows(self, copy: int, begin: float, end: float) -> Iterator[tuple[Floats, Ints, Ints]]:
        """Times, rows and the number of the round of one copy between two moments."""
        trace, span = self._trace, self._trace.span_s
        first, last = (moment / self._scale + self._starts[copy] for moment in (begin, end))
        for turn in range(int(first // span), int(last // span) + 1):
            low, high = np.searchsorted(trace.at, (first - turn * span, last - turn * span))
            rows = np.arange(low, high)
            serial = turn * self._copies + copy
            if copy == self._copies - 1 and self._last < 1:
                draws = mixed(trace.conversation[rows] + serial * len(trace.began), self._salts[0])
                rows = rows[draws < self._last]
            if rows.size:
                at = (trace.at[rows] + turn * span - self._starts[copy]) * self._scale
                yield np.maximum(at, begin), rows, np.full(len(rows), serial)

    def _ask(self, at: Floats, rows: Ints, serial: Ints) -> Iterator[Arrival]:
        trace, callers = self._trace, self._callers
        conversation = trace.conversation[rows] + serial * len(trace.began)
        # All of a conversation wants the model that was popular when it began.
        began = at - (trace.at[rows] - trace.at[trace.began[trace.conversation[rows]]]) * self._scale
        drawn = callers.models(np.append(began, at[-1:]), np.append(mixed(conversation, self._salts[1]), 0.0))[:-1]
        models = np.where(self._said[rows] >= 0, self._said[rows], drawn)
        prompt, output = callers.cut(trace.prompt[rows], trace.output[rows], models)
        limits = callers.declared(prompt, output, models)
        entries = mixed(conversation, self._salts[2]).tolist()
        columns = (at, models, prompt, output, limits, rows, serial, conversation)
        streams = callers.streams(len(rows))
        for job, entry, streamed in zip(
            zip(*(c.tolist() for c in columns), strict=True), entries, streams, strict=True
        ):
            when, model, before, after, limit, row, number, talk = job
            ids = trace.blocks[row]
            blocks = engine_blocks(ids, number * trace.ids, before, self._block_tokens) if ids else ()
            session = talk + 1 if self._sessions else 0
            yield Arrival(when, entry, callers.names[model], before, after, limit, session, blocks, streamed)


def engine_blocks(ids: tuple[int, ...], base: int, tokens: int, block_tokens: int) -> tuple[int, ...]:
    """The ids of the full engine blocks of a prompt of so many tokens, named after the places of their last tokens.

    ``base`` is added to each trace id.
    """
    found: list[int] = []
    for place, block in enumerate(ids):
        first = (block_tokens - 1 - TRACE_BLOCK * place) % block_tokens
        start = (base + block) * TRACE_BLOCK
        found.extend(range(start + first, start + TRACE_BLOCK, block_tokens))
    return tuple(found[: tokens // block_tokens])
