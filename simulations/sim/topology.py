"""Where the nodes are and how long a message takes from one to the other.

Theory of operation
===================

A topology is a square of *places* (hosts of a measurement, or regions of a table).  Each node is put on one of them by
its own random stream, so its place does not depend on the number of nodes.  A delay is log-normal: ``one_way_s`` is
its median, half the median round trip, and ``jitter_of`` the sigma of the factor on it::

    planetlab490   sigma from the inter-quartile range of a pair: asinh(IQR / 2 median) / 0.6745, and ``jitter`` on top
    seattle99      sigma from the tail of a pair: ln(p95 / median) / 1.645; ``jitter`` does not count
    regions8       ``jitter``
    uniform        ``jitter``, and one delay for all

Only round trips are measured, so both directions are taken to be alike.  Unmeasured pairs have the median of their row.
Not here: bandwidth, queues, loss (``network``).
"""

from __future__ import annotations

import gzip
from array import array
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from simulations.rng_streams import rng_stream
from simulations.scenario import Topology

Matrix = npt.NDArray[np.float64]
#: A number for each pair of places.
Table = Sequence[Sequence[float]]

#: One-way delay between two nodes on the same host, seconds (guess: a switched LAN).
LAN_S: Final = 0.000_2
#: Sigma within a LAN (guess).
LAN_JITTER: Final = 0.1
#: Largest sigma of a pair: beyond it a few broken links of the measurement would send messages into next week (guess;
#: 2 % of the pairs of seattle99 and 0.3 % of planetlab490 have more).
MOST_JITTER: Final = 2.0
#: Quantiles of the normal distribution: 75 % and 95 %.
_Q75: Final = 0.6745
_Q95: Final = 1.6449
#: Regions that the servers of planetlab490 are sorted into; no coordinates are published (guess).
PLANETLAB_REGIONS: Final = 6

#: The one region where all distances are the same.
EVERYWHERE: Final = "everywhere"
#: The regions of the network graph of libp2p's gossipsub interoperability tests (``libp2p/test-plans``,
#: ``gossipsub-interop``), with the share of nodes there (weights of the same source: nodes of Ethereum).
REGIONS: Final = (
    "australia",
    "europe",
    "east-asia",
    "west-asia",
    "na-east",
    "na-west",
    "south-africa",
    "south-america",
)
REGION_WEIGHTS: Final = (290, 5599, 1059, 161, 2894, 1240, 47, 36)
#: One-way milliseconds between them (same source; its one asymmetric pair, 190 and 195, is taken as 190).
REGION_MS: Final = (
    (2, 165, 110, 180, 150, 110, 220, 190),
    (165, 2, 125, 60, 70, 110, 95, 140),
    (110, 125, 4, 110, 140, 100, 175, 175),
    (180, 60, 110, 5, 110, 150, 110, 145),
    (150, 70, 140, 110, 2, 60, 130, 100),
    (110, 110, 100, 150, 60, 2, 160, 100),
    (220, 95, 175, 110, 130, 160, 7, 190),
    (190, 140, 175, 145, 100, 100, 190, 7),
)


class Latencies(Protocol):
    """Delays between nodes; any index that is not negative is a node."""

    def one_way_s(self, a: int, b: int) -> float:
        """Median seconds from ``a`` to ``b``."""
        ...

    def jitter_of(self, a: int, b: int) -> float:
        """Sigma of the log-normal factor on it."""
        ...

    def region(self, a: int) -> str:
        """The name of the part of the world that ``a`` is in."""
        ...


class Uniform:
    """The same delay everywhere."""

    __slots__ = ("_delay_s", "_jitter")

    def __init__(self, delay_s: float, jitter: float) -> None:
        self._delay_s = delay_s
        self._jitter = jitter

    def one_way_s(self, a: int, b: int) -> float:  # noqa: ARG002  # the same for all
        return self._delay_s

    def jitter_of(self, a: int, b: int) -> float:  # noqa: ARG002
        return self._jitter

    def region(self, a: int) -> str:  # noqa: ARG002
        return EVERYWHERE


class Placed:
    """Nodes on places, delays between places."""

    __slots__ = ("_bounds", "_delay_s", "_jitter", "_places", "_regions", "_seed")

    def __init__(
        self,
        delay_s: Table,
        jitter: Table,
        regions: Sequence[str],
        weights: Sequence[float],
        seed: int,
        nodes: int,
    ) -> None:
        self._delay_s = delay_s
        self._jitter = jitter
        self._regions = regions
        self._bounds = np.cumsum(weights) / sum(weights)
        self._seed = seed
        self._places: list[int] = []
        self._place(nodes - 1)

    def one_way_s(self, a: int, b: int) -> float:
        try:
            return self._delay_s[self._places[a]][self._places[b]]
        except IndexError:
            self._place(max(a, b))
            return self._delay_s[self._places[a]][self._places[b]]

    def jitter_of(self, a: int, b: int) -> float:
        try:
            return self._jitter[self._places[a]][self._places[b]]
        except IndexError:
            self._place(max(a, b))
            return self._jitter[self._places[a]][self._places[b]]

    def region(self, a: int) -> str:
        self._place(a)
        return self._regions[self._places[a]]

    def _place(self, last: int) -> None:
        """Put every node up to ``last`` somewhere."""
        for index in range(len(self._places), last + 1):
            draw = rng_stream(self._seed, "place", index).random()
            self._places.append(min(int(np.searchsorted(self._bounds, draw, "right")), len(self._regions) - 1))


def latencies(topology: Topology, seed: int) -> Latencies:
    """The delays of this topology.  Matrices are read once per process, places are drawn per seed."""
    kind = topology.latency
    if kind == "uniform":
        return Uniform(topology.latency_s, topology.jitter)
    delay_s, regions, weights = _delays(kind)
    return Placed(delay_s, _jitters(kind, topology.jitter), regions, weights, seed, topology.nodes)


def regions_of(kind: str) -> tuple[str, ...]:
    """The parts of the world that this kind of distances tells apart, by name."""
    if kind == "regions8":
        return REGIONS
    if kind == "planetlab490":
        return tuple(f"{kind}-{place + 1}" for place in range(PLANETLAB_REGIONS))
    return (EVERYWHERE if kind == "uniform" else kind,)


@cache
def _delays(kind: str) -> tuple[Table, tuple[str, ...], tuple[float, ...]]:
    """One-way medians, and the region and weight of every place."""
    if kind == "regions8":
        return [[ms / 1000 for ms in row] for row in REGION_MS], REGIONS, REGION_WEIGHTS
    one_way = filled(rtt_ms(f"{kind}-rtt-median-ms")) / 2000
    np.fill_diagonal(one_way, LAN_S)
    regions = _clusters(one_way, kind) if kind == "planetlab490" else (kind,) * len(one_way)
    return _packed(one_way), regions, (1.0,) * len(one_way)


@cache
def _jitters(kind: str, jitter: float) -> Table:
    if kind == "regions8":
        return [[jitter] * len(REGIONS) for _ in REGIONS]
    median = filled(rtt_ms(f"{kind}-rtt-median-ms"))
    if kind == "planetlab490":
        own = np.arcsinh(filled(rtt_ms(f"{kind}-rtt-iqr-ms")) / (2 * median)) / _Q75
        sigma = np.hypot(np.minimum(own, MOST_JITTER), jitter)
    else:
        tail = filled(rtt_ms(f"{kind}-rtt-p95-ms"))
        sigma = np.log(np.maximum(tail / median, 1.0)) / _Q95
    sigma = np.minimum(sigma, MOST_JITTER)
    np.fill_diagonal(sigma, LAN_JITTER)
    return _packed(sigma)


def _packed(matrix: Matrix) -> Table:
    """For reading one number at a time: quicker than numpy, and a quarter of the memory of lists."""
    return [array("d", row) for row in matrix]


def rtt_ms(name: str) -> Matrix:
    """A matrix of ``data/latency``; missing entries and the diagonal are NaN.

    Symmetric ones are stored as the part above the diagonal: the first row is one shorter than the matrix.
    """
    raw = resources.files("simulations").joinpath("data", "latency", f"{name}.csv.gz").read_bytes()
    rows = [
        [float(cell) if cell else np.nan for cell in line.split(",")] for line in gzip.decompress(raw).decode().split()
    ]
    size = len(rows[0])
    if len(rows) == size and len(rows[-1]) == size:
        return np.array(rows)
    size += 1
    matrix = np.full((size, size), np.nan)
    for place, row in enumerate(rows):
        matrix[place, place + 1 :] = row
        matrix[place + 1 :, place] = row
    return matrix


def filled(matrix: Matrix) -> Matrix:
    """Missing entries replaced by the median of their row."""
    return np.where(np.isnan(matrix), np.nanmedian(matrix, axis=1, keepdims=True), matrix)


def _clusters(delay: Matrix, kind: str) -> tuple[str, ...]:
    """Sort places into regions: k-medoids on the delays, from the most central place and then the farthest ones."""
    medoids = [int(delay.sum(axis=1).argmin())]
    while len(medoids) < PLANETLAB_REGIONS:
        # The farthest by the 90 % quantile of the delays, lest a single badly connected host makes a region.
        far = delay[:, medoids].min(axis=1)
        central = delay.sum(axis=1) <= np.quantile(delay.sum(axis=1), 0.9)
        medoids.append(int(np.where(central, far, -1.0).argmax()))
    for _ in range(20):
        member = delay[:, medoids].argmin(axis=1)
        moved = []
        for region in range(PLANETLAB_REGIONS):
            inside = np.flatnonzero(member == region)
            moved.append(int(inside[delay[np.ix_(inside, inside)].sum(axis=1).argmin()]))
        if moved == medoids:
            break
        medoids = moved
    return tuple(f"{kind}-{place + 1}" for place in delay[:, medoids].argmin(axis=1))
