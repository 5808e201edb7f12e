"""The peers that offer one model, as a table of columns that filters and policies compute with.

A ``CandidateTable`` exists for one decision.  It gathers a column on first use, so a policy pays only for the columns
that it reads.  Not here: which peers may be asked (``filters``) and their order (``policies``, ``ranking``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from protocol.arrays import BoolArray, FloatArray
from protocol.ids import PeerId
from protocol.membership.columns import Offers
from protocol.membership.peer_record import PeerRecord
from protocol.membership.peer_view import PeerView
from protocol.perf.cost_model import CHUNK_TOKENS, REQUEST_S, Rates, prefill_s, step_s
from protocol.perf.forecast import Forecast
from protocol.perf.gpu_catalog import ModelShape, shape_of
from protocol.reputation.experience import Experience
from protocol.routing.standing import Standing
from protocol.settings import CascadeSettings
from protocol.statements.adverts import ModelOffer

#: Constants of splitmix64 (Steele, Lea, Flood 2014), which gives a thousand random numbers in one numpy call.
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_WORD: Final = (1 << 64) - 1


#: The first steps of every sequence, computed once; longer sequences are computed on demand.
_STEPS: Final = np.arange(1, 1025, dtype=np.uint64) * _GAMMA
_30, _27, _31, _12 = (np.uint64(bits) for bits in (30, 27, 31, 12))

#: Standard deviation of the logarithm of a prediction that no observation corrected (guess: hidden efficiencies of
#: 25 %, and as much for what the model of a GPU leaves out).
UNKNOWN_SIGMA: Final = 0.35
#: Upload to a peer before anything was measured, bytes per second (the slowest that the cascade tolerates).
UPLOAD_BYTES_S: Final = float(CascadeSettings().upload_bytes_s)

T = TypeVar("T")


class _once(Generic[T]):  # noqa: N801 - a decorator
    """A property that is computed on first use.

    ``functools.cached_property`` takes a lock for each one, which costs a tenth of a decision.
    """

    def __init__(self, work_out: Callable[[Any], T]) -> None:
        self._work_out = work_out
        self._name = work_out.__name__
        self.__doc__ = work_out.__doc__

    def __get__(self, table: Any, owner: type) -> T:
        value = table.__dict__[self._name] = self._work_out(table)
        return value


def noise(seed: int, size: int) -> FloatArray:
    """``size`` numbers between 0 and 1, both excluded, that depend on ``seed`` only."""
    steps = _STEPS[:size] if size <= len(_STEPS) else np.arange(1, size + 1, dtype=np.uint64) * _GAMMA
    state = steps + np.uint64(seed & _WORD)
    state = (state ^ (state >> _30)) * _MIX[0]
    state = (state ^ (state >> _27)) * _MIX[1]
    bits = (state ^ (state >> _31)) >> _12
    uniform: FloatArray = (bits.astype(np.float64) + 0.5) * 2.0**-52
    return uniform


@dataclass(frozen=True, slots=True)
class JobQuery:
    """The requirements of a job and the preferences of its caller.

    ``body_bytes`` have to be sent to a peer before it can begin.  ``max_price`` is in USD per million tokens of answer.
    ``order``, ``only`` and ``ignore`` name peers by id, by short id, or by label, which a peer chooses freely.
    ``zone`` is ``local``, ``mine``, ``trusted`` or ``anyone``; ``trusted`` are the peers that the middle two allow.
    ``sort`` is ``price``, ``throughput`` or ``latency``, and replaces the policy.  ``exclude`` are the peers that were
    tried already.
    """

    model: str
    prompt_tokens: int = 0
    max_tokens: int = 256
    capabilities: frozenset[str] = frozenset()
    quantizations: tuple[str, ...] = ()
    max_price: float | None = None
    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sort: str | None = None
    zone: str = "anyone"
    exclude: frozenset[PeerId] = frozenset()
    trusted: frozenset[PeerId] = frozenset()
    body_bytes: int = 0


class CandidateTable:
    """The peers that offer ``query.model``, at one moment; a place is an index into all arrays."""

    def __init__(
        self,
        view: PeerView,
        offers: Offers,
        query: JobQuery,
        now: float,
        seed: int = 0,
        experience: Experience | None = None,
    ) -> None:
        self.view = view
        self.offers = offers
        self.query = query
        self.now = now
        self._seed = seed
        self._rows = offers.rows
        self._gathered: dict[str, npt.NDArray[Any]] = {}
        #: The peers as this node has seen them; None where that does not count.
        self.standing = None if experience is None else Standing(self, experience)

    def __len__(self) -> int:
        return len(self.offers)

    def offer(self, place: int) -> ModelOffer:
        """The offer of the peer at a place."""
        return self.offers.offers[int(self.offers.rows[place])]

    def record(self, place: int) -> PeerRecord:
        """The record of the peer at a place."""
        return self.view.at(int(self._rows[place]))

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the peer view, for these peers."""
        column = self._gathered.get(name)
        if column is None:
            column = self._gathered[name] = self._table[name]
        return column

    @_once
    def _table(self) -> npt.NDArray[np.void]:
        """Their rows of the view.  A row is contiguous, so copying it costs as little as copying one field."""
        return self.view.columns.rows(self._rows)

    def offered(self, name: str) -> npt.NDArray[Any]:
        """A column of their offers."""
        return self.offers.column(name)

    @_once
    def warm(self) -> BoolArray:
        """Whether a peer has the model resident."""
        return self.offers.warm

    @_once
    def all_warm(self) -> bool:
        """Whether all peers have the model resident."""
        return bool(self.warm.all())

    @_once
    def noise(self) -> FloatArray:
        """One random number per peer."""
        return noise(self._seed, len(self))

    @_once
    def jobs(self) -> FloatArray:
        """Running and waiting jobs: those of the load, corrected by our own jobs since it arrived."""
        inflight = self.column("inflight")
        jobs: FloatArray = np.maximum(inflight, self.column("jobs") + inflight - self.column("covered"))
        return jobs

    @_once
    def slots(self) -> FloatArray:
        """Slots for jobs; a default if the peer reports none."""
        return self.column("places")

    @_once
    def rtt(self) -> FloatArray:
        """Round trip, seconds: 0 for this node, a default if it was never measured."""
        return self.column("way")

    @_once
    def link(self) -> FloatArray:
        """The same and twice its deviation: a link that varies is late more often than its mean says."""
        return self.column("link")

    @_once
    def upload(self) -> FloatArray:
        """Seconds to send the body of the request: 0 for this node."""
        seconds: FloatArray = ~self.column("me") * (self.query.body_bytes / UPLOAD_BYTES_S)
        return seconds

    def forecast(self, place: int) -> Forecast:
        """The prediction for the peer at a place."""
        wait = float(self.link[place] + self.upload[place] + self.cold[place])
        prompt = float(self.queue[place] + self.memory[place] + self.prefill[place])
        itl = float(self.itl[place])
        chunk = itl + CHUNK_TOKENS * float(self.backlog_token[place])
        return Forecast(wait + prompt, itl, UNKNOWN_SIGMA, wait, prompt, itl, chunk)

    @_once
    def ttft(self) -> FloatArray:
        """Seconds to the first token."""
        ttft: FloatArray = self.link + self.upload + self.cold + self.queue + self.memory + self.prefill
        return ttft

    # --- predicted seconds ---------------------------------------------------------------------------------------

    @_once
    def shape(self) -> ModelShape:
        """The model's shape, from the table or guessed from its name."""
        return shape_of(self.query.model)

    @_once
    def rates(self) -> Rates[FloatArray]:
        """How fast each peer runs the model.  A lower clock slows the computation, not the memory."""
        offered = self.offered
        return Rates(offered("token_s") / self.column("clock"), offered("weights_s"), offered("kv_s"))

    @_once
    def itl(self) -> FloatArray:
        """Seconds per token with this job in the batch; all other jobs are assumed to be as long as this one."""
        batch: FloatArray = np.minimum(self.jobs, self.slots - 1) + 1
        context: FloatArray = batch * (self.query.prompt_tokens + self.query.max_tokens / 2)
        return step_s(self.shape, self.rates, batch, context)

    @_once
    def prefill(self) -> FloatArray:
        """Seconds to process the prompt."""
        return prefill_s(self.shape, self.rates, float(self.query.prompt_tokens)) + REQUEST_S

    @_once
    def backlog_token(self) -> FloatArray:
        """Seconds for which a token of another prompt delays this job."""
        delay: FloatArray = self.offered("backlog_s") / self.column("clock")
        return delay

    @_once
    def slot_wait(self) -> FloatArray:
        """Seconds until a slot is free: jobs without one share the slots."""
        ahead = np.maximum(0.0, self.jobs - self.slots + 1)
        wait: FloatArray = ahead / self.slots * self.query.max_tokens * self.itl
        return wait

    @_once
    def queue(self) -> FloatArray:
        """Seconds until this job's turn: jobs without a slot, and prompts.

        The prompts of the load were processed one after the other since it arrived, those of our own jobs after them.
        """
        told = self.column("told_at") + self.column("prefill") * self.backlog_token
        prompts = np.maximum(0.0, np.maximum(told, self.column("busy_until")) - self.now)
        queue: FloatArray = self.slot_wait + prompts
        return queue

    @_once
    def memory(self) -> FloatArray:
        """Seconds beyond the wait for a slot until the KV cache has room.

        Jobs that hold the surplus tokens have to end first: a share of all, of which each lasts an answer.  A job that
        the load does not count as running holds nothing yet and needs its prompt.
        """
        room, share = self.offered("kv_room"), self.column("kv")
        comers = np.maximum(0.0, self.jobs - self.column("running")) + 1
        surplus = (share - 1) * room + comers * self.query.prompt_tokens
        if surplus.max(initial=0.0) <= 0:
            return np.zeros(len(self))
        generations = np.minimum(comers, np.maximum(0.0, surplus) / np.maximum(1.0, share * room))
        full = generations * self.query.max_tokens * self.itl
        wait: FloatArray = np.where(share > 0, np.maximum(0.0, full - self.slot_wait), 0.0)
        return wait

    @_once
    def cold(self) -> FloatArray:
        """Seconds until the model is resident."""
        return self.offered("cold_s")
