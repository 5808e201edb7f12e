"""One job of a caller, and the draws of its model, entry and limit.

A job that exceeds the model's context is cut to fit, as clients do: the prompt loses its end, or the answer does if
the answer alone is too long.  ``output_tokens`` is the truth, and only the engine that makes the answer may look at it;
The caller declares ``max_tokens``, and callers declare too much: the truth times a factor between 1 and 8, rounded up
to a power of two.  Each purpose has its own generator, so that a change of one leaves the others alone.

Not here: times and lengths (``arrival_process``, ``conversations``, ``traces``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from simulations.rng_streams import numpy_rng_stream
from simulations.scenario import Lengths, Scenario
from simulations.workload.popularity import shares

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Jobs made at once.
BLOCK: Final = 4096
#: Most that a caller declares over what it gets, as a factor (guess).
OVERDECLARED: Final = 8.0


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """One job of a caller.

    ``at`` is seconds since the start; ``entry`` a draw in [0, 1) that the run maps to a node, equal within a session;
    ``output_tokens`` the true length, which only the worker's engine sees; ``max_tokens`` what the caller declares;
    ``session`` a number, 0 for none; ``blocks`` the ids of the full blocks of the prompt, equal ids being equal
    beginnings.
    """

    at: float
    entry: float
    model: str
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    session: int = 0
    blocks: tuple[int, ...] = ()
    streamed: bool = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """Columns of jobs in order of time, before anybody asked for a model."""

    at: Floats
    prompt: Ints
    output: Ints


class Callers:
    """Draws the decisions of callers: the model, the entry, and the declared limit."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        models = scenario.models
        self.names = tuple(model.name for model in models.catalogue)
        self.contexts: Ints = np.array([model.context for model in models.catalogue])
        self._before = np.cumsum(shares(models))
        self._after = np.cumsum(shares(models, turned=True))
        self._shift_at_s = models.shift_at_s or np.inf
        self._streamed = scenario.workload.streamed
        self._models = numpy_rng_stream(seed, "arrivals models")
        self._entries = numpy_rng_stream(seed, "arrivals entries")
        self._limits = numpy_rng_stream(seed, "arrivals limits")
        self._streams = numpy_rng_stream(seed, "arrivals streams")

    def models(self, at: Floats, draws: Floats | None = None) -> Ints:
        """Places in the catalogue of the models that are requested at these times."""
        if draws is None:
            draws = self._models.random(len(at))
        before = np.searchsorted(self._before, draws, "right")
        if at.size and at[-1] >= self._shift_at_s:
            before = np.where(at < self._shift_at_s, before, np.searchsorted(self._after, draws, "right"))
        places: Ints = np.minimum(before, len(self.names) - 1)
        return places

    def entries(self, count: int) -> Floats:
        return self._entries.random(count)

    def cut(self, prompt: Ints, output: Ints, models: Ints) -> tuple[Ints, Ints]:
        """Prompts and answers as they fit into the models' contexts."""
        context = self.contexts[models]
        output = np.maximum(1, np.minimum(output, context - 1))
        return np.maximum(1, np.minimum(prompt, context - output)), output

    def declared(self, prompt: Ints, output: Ints, models: Ints) -> Ints:
        """The limits that callers set: never below the truth, never beyond the context."""
        fraction, exponent = np.frexp(output * self.factors(len(output)))
        rounded = np.ldexp(1.0, exponent - (fraction == 0.5)).astype(np.int64)
        limit: Ints = np.maximum(output, np.minimum(rounded, self.contexts[models] - prompt))
        return limit

    def factors(self, count: int) -> Floats:
        """How much more than the truth callers declare."""
        factors: Floats = np.exp(self._limits.random(count) * np.log(OVERDECLARED))
        return factors

    def streams(self, count: int) -> list[bool]:
        """Which jobs are streamed."""
        if self._streamed >= 1:
            return [True] * count
        streamed: list[bool] = (self._streams.random(count) < self._streamed).tolist()
        return streamed

    def ask(self, wanted: Wanted) -> Iterator[Arrival]:
        """Jobs that have nothing to do with each other."""
        models = self.models(wanted.at)
        prompt, output = self.cut(wanted.prompt, wanted.output, models)
        limits = self.declared(prompt, output, models)
        names, none = self.names, ()
        for at, entry, model, before, after, limit, streamed in zip(
            wanted.at.tolist(),
            self.entries(len(models)).tolist(),
            models.tolist(),
            prompt.tolist(),
            output.tolist(),
            limits.tolist(),
            self.streams(len(models)),
            strict=True,
        ):
            yield Arrival(at, entry, names[model], before, after, limit, 0, none, streamed)


def drawn(lengths: Lengths, generator: np.random.Generator, count: int) -> Ints:
    """Log-normal numbers of tokens within their bounds."""
    tokens = np.rint(lengths.median * np.exp(lengths.sigma * generator.standard_normal(count)))
    bounded: Ints = np.clip(tokens, lengths.least, max(lengths.least, lengths.most)).astype(np.int64)
    return bounded


def mixed(numbers: Ints, salt: int) -> Floats:
    """A draw in [0, 1) for each number, the same for the same number (the finisher of SplitMix64)."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt & 0xFFFF_FFFF_FFFF_FFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
