"""The policies that order candidates: one function each, over all peers that offer a model at once.

A policy defines the terms of a score (its *parts*).  ``ranking`` adds or multiplies them, puts peers with a warm model
or a free slot first if the policy says so, and explains the parts.  Every policy is selectable by name, and the
simulator compares them; ``SORTS`` are the alternatives that a caller may choose.

Not here: which peers may be asked at all (``filters``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from protocol.arrays import BoolArray, FloatArray
from protocol.perf.cost_model import ANSWER_TOKENS, LEAST_TFLOPS
from protocol.routing.candidate_table import CandidateTable
from protocol.statements.adverts import ModelState

#: The source of a number: the peer's advert or load, our link to it, this node itself, or the outcomes of past jobs.
Basis = Literal["advert", "load", "link", "own", "learned"]

#: Weights of the seed formula, as NeuralGrid published them; the floor bounds the score of a peer without a price.
VRAM_WEIGHT: Final = 0.3
TFLOPS_WEIGHT: Final = 0.5
PRICE_WEIGHT: Final = 0.2
PRICE_FLOOR: Final = 0.01
#: GPU Torrent names a bonus for a model that matches, without numbers (guess): warm, sleeping, on disk.
MATCH: Final = (1.0, 0.5, 0.25)
#: Round trip that halves a peer's score under GPU Torrent's latency penalty, seconds (guess).
HALVING_RTT_S: Final = 0.1
#: Share of free memory of a peer that does not report it (guess).
UNKNOWN_FREE: Final = 0.5
#: Temperature of the draw by seconds: a peer that is twice as fast is chosen ten times as often (DESIGN 5; 0.1 to 0.6
#: differ little in the simulator, with 0 all nodes choose the same peer).
TEMPERATURE: Final = 0.3
#: The same for the price: a peer that is half as dear is chosen a thousand times as often (guess: a caller who sorts
#: by the price means it).
PRICE_TEMPERATURE: Final = 0.1
#: The part of the score that comes after the first token.
ANSWER: Final = "answer"
#: Peers drawn for one job by the seconds to the end of the answer; the one with the soonest first token goes first
#: (routing study: 3; simulated with 100 nodes at 0.7: 5 differ little; the best by the seconds to the end instead has
#: TTFT p50/p95/p99 of 0.32/1.34/1.97 instead of 0.25/0.95/1.51 s, and no shorter answers: 3.8 and 3.7 s in the mean).
BEST_OF: Final = 3
#: Least predicted duration of a job, of a token, seconds, and least price of a job, USD, so that its logarithm exists.
LEAST_S: Final = 1e-3
LEAST_TOKEN_S: Final = 1e-5
LEAST_USD: Final = 1e-9
#: The score of a peer that ``power-of-two`` drew: more than any load.
DRAWN: Final = 1e6
#: Weight of an unknown GPU, TFLOPS (guess: a small one).
UNKNOWN_WEIGHT: Final = 10.0


@dataclass(slots=True)
class Part:
    """One term for all candidates: raw ``values`` in ``unit``, what each ``makes`` of the score, and their source.

    ``known`` returns, for an explanation, which values are not assumptions; None if none is.  ``learned`` returns which
    values past jobs have corrected; None if none is.
    """

    name: str
    values: FloatArray
    unit: str
    makes: FloatArray
    basis: Basis
    known: Callable[[], BoolArray] | None = None
    learned: Callable[[], BoolArray] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to order candidates; the highest score goes first.

    ``product``: the parts are multiplied, not added.  ``warm_first``: a peer with the model resident comes before all
    peers that have to load it.  ``free_first``: a peer with a free slot comes before all peers without.
    ``temperature``: peers are drawn one after the other, each with weight cost^(-1/temperature), where the score is
    minus the cost (seconds, or USD) and ``least`` its least value; 0 takes the best.  ``drawn``: a part of the score is
    a draw, so the best differs each time.  ``learns``: what this node has seen of the peers counts.  ``best_of``: peers
    with a fresh load are drawn before all others, and the best of the first so many, by the score without the part
    ``best_without``, goes first.
    """

    name: str
    about: str
    parts: Callable[[CandidateTable], list[Part]]
    product: bool = False
    warm_first: bool = True
    free_first: bool = True
    temperature: float = 0.0
    least: float = LEAST_S
    drawn: bool = False
    learns: bool = False
    best_of: int = 0
    best_without: str = ""

    @property
    def draws(self) -> bool:
        """Whether another request gets another order."""
        return self.drawn or self.temperature > 0

    def unit(self, parts: list[Part]) -> str:
        """The unit of the score, if all parts have the same and are added."""
        units = {part.unit for part in parts}
        return "" if self.product or len(units) > 1 else units.pop()

    def scores(self, parts: list[Part]) -> FloatArray:
        """The sum or the product of the parts."""
        score = parts[0].makes
        for part in parts[1:]:
            score = score * part.makes if self.product else score + part.makes
        return score

    def contest(self, parts: list[Part], scores: FloatArray) -> FloatArray:
        """The scores that decide among those that were drawn."""
        for part in parts:
            if part.name == self.best_without:
                scores = scores - part.makes
        return scores

    def keys(self, scores: FloatArray, noise: FloatArray) -> FloatArray:
        """The sort keys of the peers, highest first: the scores, or a draw by them.

        The draw is weighted sampling without replacement: it sorts by ``log weight + Gumbel noise`` (Yellott 1977).
        """
        weights = self.log_weights(scores)
        if weights is None:
            return scores
        keys: FloatArray = weights - np.log(-np.log(noise))
        return keys

    def log_weights(self, scores: FloatArray) -> FloatArray | None:
        """The logarithms of the weights of the draw; None if the best score is taken."""
        if not self.temperature:
            return None
        weights: FloatArray = -np.log(np.maximum(-scores, self.least)) / self.temperature
        return weights


def vram_fit(need_mib: FloatArray, vram_mib: FloatArray) -> FloatArray:
    """1 for a GPU that is just large enough, less for a larger one; 0 if it is too small or a size is unknown.

    This is right-sizing.  The published term rewards memory that the model does not need, so large cards fill up with
    small models.
    """
    fits = (need_mib > 0) & (need_mib <= vram_mib)
    return np.divide(need_mib, vram_mib, out=np.zeros(len(need_mib)), where=fits)


def neuralgrid(table: CandidateTable) -> list[Part]:
    """The seed formula: 0.3 fit of the memory + 0.5 TFLOPS / 100 + 0.2 / (price + 0.01), warm peers first."""
    vram, tflops, price = table.column("vram"), table.column("tflops"), table.offered("price_out")
    fit = vram_fit(table.offered("need_mib"), vram)
    return [
        Part(
            "vram fit", fit, "share", VRAM_WEIGHT * fit, "advert", lambda: (vram > 0) & (table.offered("need_mib") > 0)
        ),
        Part("compute", tflops, "TFLOPS", TFLOPS_WEIGHT / 100 * tflops, "advert", lambda: tflops > 0),
        Part("price", price, "USD/M tokens", PRICE_WEIGHT / (price + PRICE_FLOOR), "advert"),
    ]


def neuralgrid_published(table: CandidateTable) -> list[Part]:
    """The seed formula as published: its memory term is the share that stays empty, so the largest card wins."""
    vram, need = table.column("vram"), table.offered("need_mib")
    known = (vram > 0) & (need > 0)
    spare = np.maximum(0.0, np.divide(vram - need, vram, out=np.zeros(len(table)), where=known))
    _, compute, price = neuralgrid(table)
    return [Part("vram spare", spare, "share", VRAM_WEIGHT * spare, "advert", lambda: known), compute, price]


def gputorrent(table: CandidateTable) -> list[Part]:
    """GPU Torrent's: free / total memory, times a bonus for the state of the model, times a penalty for latency."""
    vram, state, rtt = table.column("vram"), table.offered("state"), table.rtt
    known = vram > 0
    free = np.divide(table.column("free"), vram, out=np.full(len(table), UNKNOWN_FREE), where=known)
    match = np.select([state == ModelState.RESIDENT, state == ModelState.SLEEPING], MATCH[:2], MATCH[2])
    return [
        Part("free vram", free, "share", free, "load", lambda: known),
        Part("model match", match, "share", match, "advert"),
        Part("latency", rtt, "s", 1 / (1 + rtt / HALVING_RTT_S), "link", _rtt_known(table)),
    ]


def least_loaded(table: CandidateTable) -> list[Part]:
    """Fewest jobs per slot, including our own jobs that the load does not contain yet."""
    load = table.jobs / table.slots
    return [Part("jobs per place", load, "jobs", -load, "load", lambda: table.column("slots") > 0)]


def power_of_two(table: CandidateTable) -> list[Part]:
    """Draw two peers at random, and take the one with fewer jobs per slot (Mitzenmacher 2001)."""
    drawn = np.zeros(len(table))
    drawn[np.argsort(-table.noise)[:2]] = 1.0
    return [Part("drawn", drawn, "", DRAWN * drawn, "own"), *least_loaded(table)]


def weighted_round_robin(table: CandidateTable) -> list[Part]:
    """A share of the jobs in proportion to compute, drawn for each job.

    The draw is weighted sampling without replacement (Efraimidis and Spirakis 2006), in logarithms.  Unlike a
    rotation, it needs no state, and the nodes do not synchronise.
    """
    tflops = table.column("tflops")
    weight = np.maximum(np.where(tflops > 0, tflops, UNKNOWN_WEIGHT), LEAST_TFLOPS)
    return [
        Part("weight", weight, "TFLOPS", np.zeros(len(table)), "advert", lambda: tflops > 0),
        Part("draw", table.noise, "", np.log(table.noise) / weight, "own"),
    ]


def random(table: CandidateTable) -> list[Part]:
    """Any peer, with equal probability."""
    return [Part("draw", table.noise, "", table.noise, "own")]


def cheapest(table: CandidateTable) -> list[Part]:
    """The price of the job, USD."""
    query = table.query
    prompt = table.offered("price_in") * query.prompt_tokens / 1e6
    answer = table.offered("price_out") * query.max_tokens / 1e6
    return [
        Part("price of the prompt", prompt, "USD", -prompt, "advert"),
        Part("price of the answer", answer, "USD", -answer, "advert"),
    ]


def fastest(table: CandidateTable) -> list[Part]:
    """Most tokens per second for this job; the score is minus the seconds per token."""
    itl = table.itl
    return [Part("tokens per second", 1 / itl, "1/s", -itl, "load", _bandwidth_known(table), table.corrected)]


def soonest(table: CandidateTable) -> list[Part]:
    """Fewest seconds to the first token: dial, the way there, loading of the model, queue, memory, prompt."""
    return _with_failures(table, _to_first_token(table))


def _to_first_token(table: CandidateTable) -> list[Part]:
    def known() -> BoolArray:
        says: BoolArray = table.column("tflops") > 0
        return says

    return [
        Part("dial", table.dial, "s", -table.dial, "link", _rtt_known(table)),
        Part("round trip", table.link, "s", -table.link, "link", _rtt_known(table)),
        Part("upload", table.upload, "s", -table.upload, "link", lambda: table.column("me")),
        Part("cold start", table.cold, "s", -table.cold, "advert"),
        Part("queue", table.queue, "s", -table.queue, "load", known, table.corrected),
        Part("memory", table.memory, "s", -table.memory, "load"),
        Part("prompt", table.prefill, "s", -table.prefill, "advert", known, table.corrected),
    ]


def expected_seconds(table: CandidateTable) -> list[Part]:
    """Seconds to the end of the answer: the time to its first token and the time of all tokens after it."""
    later = float(max(0, min(table.query.max_tokens, ANSWER_TOKENS) - 1))
    answer = table.itl * later
    parts = [
        *_to_first_token(table),
        Part(ANSWER, answer, "s", -answer, "load", _bandwidth_known(table), table.corrected),
    ]
    return _with_failures(table, parts)


def _with_failures(table: CandidateTable, parts: list[Part]) -> list[Part]:
    """And the seconds that failures are expected to cost, by what this node has seen of the peers."""
    standing = table.standing
    if standing is None:
        return parts
    total = -parts[0].makes
    for part in parts[1:]:
        total = total - part.makes
    lost = standing.failures_s(float(total.min()))
    return [*parts, Part("failures", lost, "s", -lost, "learned", lambda: standing.known)]


def _rtt_known(table: CandidateTable) -> Callable[[], BoolArray]:
    return lambda: table.column("me") | ~np.isnan(table.column("rtt"))


def _bandwidth_known(table: CandidateTable) -> Callable[[], BoolArray]:
    return lambda: table.column("bandwidth") > 0


#: The policies of ``--policy``; the first is the default.
POLICIES: Final[dict[str, Policy]] = {
    policy.name: policy
    for policy in (
        Policy(
            "expected-seconds",
            "the soonest answer, drawn so that not all nodes choose the same peer",
            expected_seconds,
            warm_first=False,
            free_first=False,
            temperature=TEMPERATURE,
            learns=True,
            best_of=BEST_OF,
            best_without=ANSWER,
        ),
        Policy("neuralgrid", "just enough memory, much compute, a low price", neuralgrid),
        Policy(
            "neuralgrid-published",
            "much spare memory, much compute, a low price, whatever the load",
            neuralgrid_published,
            warm_first=False,
            free_first=False,
        ),
        Policy("gputorrent", "much free memory, a warm model, a short way", gputorrent, product=True, warm_first=False),
        Policy("least-loaded", "fewest jobs per place", least_loaded),
        Policy("power-of-two", "the less loaded of two", power_of_two, drawn=True),
        Policy(
            "weighted-round-robin", "a share of the jobs in proportion to compute", weighted_round_robin, drawn=True
        ),
        Policy("random", "any peer", random, warm_first=False, free_first=False, drawn=True),
    )
}
DEFAULT: Final = "expected-seconds"

#: The orders that a caller may choose instead of the policy; drawn as well, because the best of a view that a thousand
#: nodes share gets all of their jobs.
SORTS: Final[dict[str, Policy]] = {
    policy.name: policy
    for policy in (
        Policy(
            "price",
            "the cheapest",
            cheapest,
            warm_first=False,
            free_first=False,
            temperature=PRICE_TEMPERATURE,
            learns=True,
            least=LEAST_USD,
        ),
        Policy(
            "throughput",
            "the most tokens per second",
            fastest,
            free_first=False,
            temperature=TEMPERATURE,
            learns=True,
            least=LEAST_TOKEN_S,
        ),
        Policy(
            "latency",
            "the soonest first token",
            soonest,
            warm_first=False,
            free_first=False,
            temperature=TEMPERATURE,
            learns=True,
        ),
    )
}
