"""Who may be asked to do a job: the ranking of the view; failing that, what the DHT knows; failing that, why nobody.

Not here: asking them (``dispatch``), the ranking itself (``protocol.routing.ranking``).
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import trio

from p2pnode.engine.base import CHAT, COMPLETIONS
from p2pnode.jobs.records import JobFailed, JobSpec
from protocol.ids import PeerId, name_key
from protocol.routing.catalog import ModelSummary, anything, catalog
from protocol.routing.ranking import JobQuery, Ranking, rank, similar

if TYPE_CHECKING:
    from p2pnode.engine.base import Engine
    from p2pnode.swarm.swarm import Swarm
    from protocol.rng import Rng

#: Seconds a look-up in the DHT may hold a request up, and for which a name that it did not know is not asked again.
DHT_S: Final = 3.0
UNKNOWN_S: Final = 30.0
#: More seconds for a peer to accept whose addresses have to be looked up first (guess: a look-up and a dial).
REACH_S: Final = 5.0
#: Names remembered as unknown.
MOST_UNKNOWN: Final = 256
#: A node that is younger than this and knows nobody says so, instead of that a model does not exist; seconds.
STARTING_S: Final = 5.0
#: The length of a prompt is a guess at four bytes a token, good to this factor: the engine's own count decides.
ESTIMATE: Final = 2
#: The field that holds the prompt.
_PROMPTS: Final = {CHAT: "messages", COMPLETIONS: "prompt"}
#: Filters that a moment can lift; the others say that the request asks for what nobody has.
_PASSING: Final = frozenset({"leaving", "not_alive", "stale_advert", "stale_load", "memory", "protocol"})


class Candidates:
    """See the module's docstring."""

    def __init__(
        self,
        swarm: Swarm,
        engine: Engine | None,
        policy: str,
        rng: Rng,
        most: int,
        trusted: frozenset[PeerId] = frozenset(),
        decided: Callable[[float], object] = lambda _: None,
    ) -> None:
        self._swarm = swarm
        self._engine = engine
        self._policy = policy
        self._rng = rng
        self._most = most
        self._trusted = trusted
        self._decided = decided
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._started = trio.current_time()

    def rank(self, query: JobQuery, *, explain: bool = False) -> Ranking:
        """The best first."""
        now = trio.current_time()
        if query.zone in ("mine", "trusted"):
            query = replace(query, trusted=query.trusted | self._trusted)
        began = time.perf_counter()
        ranking = rank(self._swarm.view, query, self._policy, self._rng, now, limit=self._most, explain=explain)
        if not explain:
            self._decided(time.perf_counter() - began)
        return ranking

    async def find(self, spec: JobSpec) -> tuple[tuple[PeerId, ...], float]:
        """Whom to ask, at least one, and how long it may take to reach them, seconds; raises ``JobFailed``."""
        ranking = self.rank(spec.query)
        if ranking.offered and not ranking.candidates:
            ranking = self._second_look(spec)
        if ranking.candidates:
            return tuple(candidate.peer for candidate in ranking.candidates), 0.0
        peers = await self._from_dht(spec.query)
        if not peers:
            raise self._nobody_offers(spec)
        return peers, REACH_S

    def models(self) -> list[dict[str, Any]]:
        """Everything on offer, as ``/v1/models`` shows it."""
        return [_shown(summary) for summary in catalog(self._swarm.view, trio.current_time())]

    def anything(self) -> bool:
        """Whether anything is on offer."""
        return anything(self._swarm.view, trio.current_time())

    async def _from_dht(self, query: JobQuery) -> tuple[PeerId, ...]:
        """Peers beyond the view.  Nothing but the name is known of them, so only a query that wishes nothing more."""
        wishes = (query.only, query.capabilities, query.quantizations, query.order, query.ignore)
        if query.zone != "anyone" or query.max_price is not None or any(wishes):
            return ()
        now = trio.current_time()
        if self._unknown.get(query.model, -UNKNOWN_S) > now - UNKNOWN_S:
            return ()
        with trio.move_on_after(DHT_S):
            found = await self._swarm.find_providers(name_key(query.model))
            peers = dict.fromkeys(envelope.author for envelope in found.envelopes)
            peers.pop(self._swarm.me, None)
            if peers:
                return tuple(peers)[: self._most]
        self._unknown[query.model] = now
        while len(self._unknown) > MOST_UNKNOWN:
            self._unknown.popitem(last=False)
        return ()

    def _second_look(self, spec: JobSpec) -> Ranking:
        """It is offered, and every offer was filtered out: raises ``JobFailed``, unless only our estimate says so."""
        ranking = self.rank(spec.query, explain=True)
        reasons = Counter(each.reason for each in ranking.excluded if each.reason != "model")
        if set(reasons) == {"context"}:
            shorter = self.rank(replace(spec.query, prompt_tokens=spec.query.prompt_tokens // ESTIMATE))
            if shorter.candidates:
                return shorter
        raise self._nobody_free(spec, ranking, reasons)

    def _nobody_free(self, spec: JobSpec, ranking: Ranking, reasons: Counter[str]) -> JobFailed:
        """Why none of those who offer it can be asked."""
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        offered = f"{ranking.offered} peers offer" if ranking.offered > 1 else "1 peer offers"
        message = f"{offered} {spec.model!r}, but none can be asked ({told})"
        hint = "POST /v1/p2p/route with the same body shows each"
        if set(reasons) == {"context"}:
            size = spec.query.prompt_tokens + spec.query.max_tokens
            message = f"The request needs about {size} tokens: {offered} {spec.model!r}, with less context. Shorten it."
            param = _PROMPTS.get(spec.path, "input")
            return JobFailed(400, "context_length_exceeded", message, param, should_retry=False)
        if reasons and not _PASSING & set(reasons):
            return JobFailed(503, "no_capacity", f"{message}: ask for less; {hint}.", should_retry=False)
        return JobFailed(503, "no_capacity", f"{message}: try again shortly; {hint}.", retry_after=1.0)

    def _nobody_offers(self, spec: JobSpec) -> JobFailed:
        engine = self._engine
        if engine is not None and engine.state == "starting":
            return JobFailed(503, "starting", "The engine of this node is still starting: try again.", retry_after=2.0)
        young = trio.current_time() < self._started + STARTING_S
        if young and len(self._swarm.view) == 0:
            return JobFailed(503, "starting", "This node is still looking for peers: try again.", retry_after=1.0)
        names = similar(self._swarm.view, spec.model)
        hint = f"Similar: {', '.join(names)}." if names else "GET /v1/models lists what can be asked for."
        message = f"Nobody offers the model {spec.model[:128]!r} now. {hint}"
        return JobFailed(404, "model_not_found", message, "model", should_retry=False)


def _shown(summary: ModelSummary) -> dict[str, Any]:
    return {
        "id": summary.name,
        "object": "model",
        "created": 0,
        "owned_by": "p2pnode",
        "p2pnode": {
            "peers": summary.peers,
            "warm": summary.warm,
            "sleeping": summary.sleeping,
            "on_disk": summary.on_disk,
            "context_length": summary.context_length,
            "quantization": ", ".join(summary.quantizations),
            "capabilities": list(summary.capabilities),
            "price_in": summary.price_in,
            "price_out": summary.price_out,
            "fingerprint": summary.fingerprints[0].hex(),
            "fingerprints": [fingerprint.hex() for fingerprint in summary.fingerprints],
            "simulated": summary.simulated,
            "expected_wait_s": round(summary.expected_wait_s, 3),
        },
    }
