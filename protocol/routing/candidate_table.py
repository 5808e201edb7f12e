"""The peers that offer one model, as a table of columns that filters and policies compute with: predicted seconds.

A ``CandidateTable`` exists for one decision.  Not here: which peers may be asked (``filters``) and their order
(``policies``, ``ranking``).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from protocol.arrays import BoolArray, FloatArray
from protocol.perf.cost_model import CHUNK_TOKENS, DIAL_TRIPS, REQUEST_S, Rates, prefill_s, step_s
from protocol.perf.forecast import Forecast
from protocol.perf.gpu_catalog import ModelShape, shape_of
from protocol.reputation.correction import PRIOR_SIGMA
from protocol.routing.candidate_columns import CandidateColumns, once
from protocol.settings import CascadeSettings

#: Upload to a peer before anything was measured, bytes per second (the slowest that the cascade tolerates).
UPLOAD_BYTES_S: Final = float(CascadeSettings().upload_bytes_s)


class CandidateTable(CandidateColumns):
    """The peers that offer ``query.model``, at one moment; a place is an index into all arrays."""

    @once
    def link(self) -> FloatArray:
        """The same and twice its deviation: a link that varies is late more often than its mean says."""
        return self.column("link")

    @once
    def dial(self) -> FloatArray:
        """Seconds until a link stands: 0 where one does, and for this node."""
        stands = self.column("linked") | self.column("me")
        dial: FloatArray = np.where(stands, 0.0, DIAL_TRIPS * self.rtt)
        return dial

    @once
    def upload(self) -> FloatArray:
        """Seconds to send the body of the request: 0 for this node."""
        seconds: FloatArray = ~self.column("me") * (self.query.body_bytes / UPLOAD_BYTES_S)
        return seconds

    def forecast(self, place: int) -> Forecast:
        """The prediction for the peer at a place."""
        sure = float(self.dial[place] + self.rtt[place] + self.cold[place])
        # A correction takes the sure part off what it observes.  A guess in it, as the margin for a link that varies
        # and the prior of the upload are, would make the rest, and so the peer, look faster than it is.
        wait = sure + float(self.link[place] - self.rtt[place] + self.upload[place])
        slower, slower_token = float(self.prompt_factor[place]), float(self.token_factor[place])
        queue = float(self.queue[place] + self.memory[place])
        prompt = queue + float(self.prefill[place])
        itl = float(self.itl[place])
        chunk = itl + CHUNK_TOKENS * float(self.backlog_token[place]) * slower
        base = (sure, prompt / slower, itl / slower_token)
        return Forecast(wait + prompt, itl, self._sigma(place), *base, chunk, queue / slower)

    def _sigma(self, place: int) -> float:
        return PRIOR_SIGMA if self.standing is None else float(self.offered("sigma")[place])

    @once
    def ttft(self) -> FloatArray:
        """Seconds to the first token."""
        ttft: FloatArray = self.dial + self.link + self.upload + self.cold + self.queue + self.memory + self.prefill
        return ttft

    # --- corrections by past jobs --------------------------------------------------------------------------------

    def _factor(self, name: str) -> FloatArray:
        return np.ones(len(self)) if self.standing is None else self.offered(name)

    @once
    def prompt_factor(self) -> FloatArray:
        """How many times slower than predicted a peer is before the first token."""
        return self._factor("prompt_factor")

    @once
    def token_factor(self) -> FloatArray:
        """The same for each token after it."""
        return self._factor("token_factor")

    def corrected(self) -> BoolArray:
        """Which predictions past jobs have corrected."""
        if self.standing is None:
            return np.zeros(len(self), np.bool_)
        return self.offered("corrected")

    # --- predicted seconds ---------------------------------------------------------------------------------------

    @once
    def shape(self) -> ModelShape:
        """The model's shape, from the table or guessed from its name."""
        return shape_of(self.query.model)

    @once
    def rates(self) -> Rates[FloatArray]:
        """How fast each peer runs the model.  A lower clock slows the computation, not the memory."""
        offered = self.offered
        return Rates(offered("token_s") / self.column("clock"), offered("weights_s"), offered("kv_s"))

    @once
    def itl(self) -> FloatArray:
        """Seconds per token with this job in the batch."""
        itl: FloatArray = self._itl * self.token_factor
        return itl

    @once
    def _itl(self) -> FloatArray:
        """The same before any correction.

        Jobs that the used share of the KV cache does not tell of are assumed to be as long as this one.
        """
        batch: FloatArray = np.minimum(self.jobs, self.slots - 1) + 1
        untold = np.maximum(1.0, batch - self.column("running") * self.told)
        context: FloatArray = self.held + untold * (self.query.prompt_tokens + self.query.max_tokens / 2)
        return step_s(self.shape, self.rates, batch, context)

    @once
    def told(self) -> BoolArray:
        """Whether the tokens in the KV cache are known."""
        return self.held > 0

    @once
    def held(self) -> FloatArray:
        """Tokens in the KV cache, as far as they are known."""
        held: FloatArray = self.column("kv") * self.offered("kv_room")
        return held

    @once
    def prefill(self) -> FloatArray:
        """Seconds to process the prompt."""
        seconds = prefill_s(self.shape, self.rates, float(self.query.prompt_tokens)) + REQUEST_S
        prefill: FloatArray = seconds * self.prompt_factor
        return prefill

    @once
    def backlog_token(self) -> FloatArray:
        """Seconds for which a token of another prompt delays this job."""
        delay: FloatArray = self.offered("backlog_s") / self.column("clock")
        return delay

    @once
    def slot_wait(self) -> FloatArray:
        """Seconds until a slot is free, before any correction: jobs without one share the slots."""
        ahead = np.maximum(0.0, self.jobs - self.slots + 1)
        wait: FloatArray = ahead / self.slots * self.query.max_tokens * self._itl
        return wait

    @once
    def queue(self) -> FloatArray:
        """Seconds until this job's turn: jobs without a slot, and prompts.

        The prompts of the load were processed one after the other since it arrived, those of our own jobs after them.
        """
        told = self.column("told_at") + self.column("prefill") * self.backlog_token
        prompts = np.maximum(0.0, np.maximum(told, self.column("busy_until")) - self.now)
        queue: FloatArray = (self.slot_wait + prompts) * self.prompt_factor
        return queue

    @once
    def memory(self) -> FloatArray:
        """Seconds beyond the wait for a slot until the KV cache has room.

        Jobs that hold the surplus tokens have to end first: a share of all, of which each lasts an answer.  A job that
        the load does not count as running holds nothing yet and needs its prompt.
        """
        held = self.held
        comers = np.maximum(0.0, self.jobs - self.column("running")) + 1
        surplus = (held - self.offered("kv_room") + comers * self.query.prompt_tokens) * self.told
        if not surplus.size or surplus.max() <= 0:
            return np.zeros(len(self))
        generations = np.minimum(comers, np.maximum(0.0, surplus) / np.maximum(1.0, held))
        full = np.maximum(0.0, generations * self.query.max_tokens * self._itl - self.slot_wait)
        wait: FloatArray = full * self.prompt_factor
        return wait

    @once
    def cold(self) -> FloatArray:
        """Seconds until the model is resident."""
        return self.offered("cold_s")
