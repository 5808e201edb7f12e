"""Production traffic from what ServeGen publishes of it: clients with rates, bursts and lengths of their own.

Theory of operation
===================

No requests are published, but 387 clients of four models (332 of them with lengths), and the rate of each model over 14
days (one for ``deepseek-r1``) in windows of ten minutes.  A client is on in a share of the windows.  In each window the
rate of its model is split between those of its clients that are on, by how much they ask when they are; so the sum goes
by the published rate and the clients come and go.  Within that, a client is a renewal process with gamma gaps of its
own coefficient of variation, run in the time in which its rate is constant.  Lengths come from its published quantiles,
straight lines between them in the logarithm.  ``time_scale`` stretches the windows; the whole is scaled to have the
wanted rate on average over the run, whichever windows that covers.

The models of the published clients are told apart by their traffic only; the catalogue's models are asked for by
popularity.  Everything is made before the first job, 60 bytes each.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import numpy as np

from simulations.rng_streams import numpy_rng_stream
from simulations.scenario import Scenario
from simulations.workload.arrival_process import gamma_gaps
from simulations.workload.arrivals import BLOCK, Arrival, Callers, Floats, Ints, Wanted

#: Seconds of a window of the published rates.
WINDOW_S: Final = 600.0
#: Most windows of one run: each costs 332 numbers.
MOST_WINDOWS: Final = 50_000
#: Where the published quantiles are, and how far beyond the outer ones lengths go: as far again, in the logarithm, as
#: the tenth from the median, and half as far as the 99th from the 90th (guess).
_AT: Final = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
_SIDES: Final = ("p10", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Client:
    """One published client.  ``prompt`` and ``output`` are logarithms of the lengths at the quantiles of ``_AT``."""

    model: str
    rate_per_s: float
    active: float
    cv: float
    prompt: Floats
    output: Floats


@cache
def clients() -> tuple[Client, ...]:
    """The clients whose lengths are known."""
    return tuple(
        Client(
            model=row["model"],
            rate_per_s=float(row["mean_rate_rps"]),
            active=max(float(row["active_share"]), 1e-3),
            cv=max(float(row["cv_median"] or 1.0), 0.1),
            prompt=_quantiles(row, "in"),
            output=_quantiles(row, "out"),
        )
        for row in _rows("servegen-clients")
        if all(row[f"{side}_{quantile}"] for side in ("in", "out") for quantile in _SIDES)
    )


@cache
def rates() -> dict[str, Floats]:
    """Requests per second of each model by window, from the first one on; mean 1."""
    rows = _rows("servegen-rates")
    found = {}
    for model in rows[0]:
        if model != "window_s":
            series = np.array([float(row[model]) for row in rows if row[model]])
            found[model] = series / series.mean()
    return found


def _rows(name: str) -> list[dict[str, str]]:
    raw = resources.files("simulations").joinpath("data", "traces", f"{name}.csv.gz").read_bytes()
    return list(csv.DictReader(gzip.decompress(raw).decode().splitlines()))


def _quantiles(row: dict[str, str], side: str) -> Floats:
    known = np.log([max(1.0, float(row[f"{side}_{quantile}"])) for quantile in _SIDES])
    least = max(0.0, 2 * known[0] - known[1])
    most = known[3] + (known[3] - known[2]) / 2
    return np.array([least, *known, most])


def servegen(scenario: Scenario, seed: int, rate_per_s: float) -> Iterator[Arrival]:
    """Jobs in order of time.  At 0 the rate is the published one: 1,913 per second over ``time_scale``."""
    callers = Callers(scenario, seed)
    window_s = WINDOW_S * scenario.workload.time_scale
    windows = math.ceil(scenario.duration_s / window_s)
    if windows > MOST_WINDOWS:
        raise ValueError(
            f"workload.time_scale = {scenario.workload.time_scale} makes {windows} windows of {scenario.duration_s} s; "
            f"at most {MOST_WINDOWS} are possible"
        )
    edges = np.minimum(np.arange(windows + 1) * window_s, scenario.duration_s)
    own = sum(client.rate_per_s for client in clients()) / scenario.workload.time_scale
    shares = _expected(windows, seed) * np.diff(edges)
    expected = shares * ((rate_per_s or own) * scenario.duration_s / shares.sum())
    columns = [_requests(client, row, edges, seed, place) for place, (client, row) in enumerate(_with(expected))]
    at, prompt, output = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(at, kind="stable")
    for begin in range(0, len(order), BLOCK):
        rows = order[begin : begin + BLOCK]
        yield from callers.ask(Wanted(at[rows], prompt[rows], output[rows]))


def _with(expected: Floats) -> Iterator[tuple[Client, Floats]]:
    return zip(clients(), expected, strict=True)


def _expected(windows: int, seed: int) -> Floats:
    """Relative rates, a row per client and a column per window."""
    known = clients()
    rate = np.array([client.rate_per_s for client in known])
    active = np.array([client.active for client in known])
    draws = numpy_rng_stream(seed, "arrivals clients").random((windows, len(known))).T
    asked = np.where(draws < active[:, None], (rate / active)[:, None], 0.0)
    for model, series in rates().items():
        mine = np.array([client.model == model for client in known])
        # Where by chance nobody is on, everybody is a little.
        asked[mine] = np.where(asked[mine].any(axis=0), asked[mine], rate[mine][:, None])
        course = rate[mine].sum() * np.resize(series, windows)
        asked[mine] *= course / asked[mine].sum(axis=0)
    return asked


def _requests(client: Client, expected: Floats, edges: Floats, seed: int, place: int) -> tuple[Floats, Ints, Ints]:
    """Times and lengths of one client that is expected to ask so often in each window."""
    generator = numpy_rng_stream(seed, "arrivals client", place)
    passed = np.concatenate(([0.0], np.cumsum(expected)))
    due: list[Floats] = []
    done = 0.0
    for gaps in gamma_gaps(generator, client.cv, max(16, int(passed[-1]))):
        due.append(done + np.cumsum(gaps))
        done = float(due[-1][-1])
        if done >= passed[-1]:
            break
    moments = np.concatenate(due)
    at = np.interp(moments[moments < passed[-1]], passed, edges)
    return at, _lengths(client.prompt, generator, len(at)), _lengths(client.output, generator, len(at))


def _lengths(quantiles: Floats, generator: np.random.Generator, count: int) -> Ints:
    tokens: Ints = np.rint(np.exp(np.interp(generator.random(count), _AT, quantiles))).astype(np.int64)
    return tokens
