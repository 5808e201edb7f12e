"""What one offered model costs on its peer's hardware: the figures that ranking reads, computed once per advert.

Not here: the load, the link and the job, which a decision adds (``routing.candidate_table``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from protocol.perf.cost_model import backlog_token_s, cold_s, fastest, kv_tokens, rates
from protocol.perf.gpu_catalog import can_run, need_mib, shape_of, weight_bytes
from protocol.statements.adverts import Gpu, ModelOffer

#: Offers whose costs are remembered (guess: the same few models and cards on most nodes).
_REMEMBERED: Final = 4096


class OfferCosts(NamedTuple):
    """See the module's docstring.

    ``need_mib`` has to be free to load it.  ``token_s``, ``weights_s`` and ``kv_s`` are the ``Rates`` of the cost model
    at full clock, ``backlog_s`` the seconds that a token of another prompt delays a job, ``kv_room`` the tokens of
    context that fit beside the weights (0: unknown), ``cold_s`` the seconds until the model is resident, and ``unable``
    is 1 if the GPU has no kernels for the quantization.
    """

    need_mib: float
    weight_bytes: float
    token_s: float
    weights_s: float
    kv_s: float
    backlog_s: float
    kv_room: float
    cold_s: float
    unable: float


#: The names of the costs, in their order.
COSTS: Final = tuple(OfferCosts.__annotations__)


@lru_cache(_REMEMBERED)
def offer_costs(offer: ModelOffer, gpus: tuple[Gpu, ...]) -> OfferCosts:
    """The costs of an offer on the fastest kind of these GPUs."""
    gpu, label = fastest(gpus), offer.quantization or offer.name
    shape, weights = shape_of(offer.name, offer.params_b), weight_bytes(offer)
    speed = rates(gpu, shape, label)
    return OfferCosts(
        need_mib=need_mib(offer),
        weight_bytes=weights,
        token_s=speed.token_s,
        weights_s=speed.weights_s,
        kv_s=speed.kv_s,
        backlog_s=backlog_token_s(shape, speed),
        # 0 as well where the weights do not fit: the peer must hold them elsewhere, so nothing is known of its cache.
        kv_room=kv_tokens(gpu, shape, label) or 0.0,
        cold_s=cold_s(offer.state, weights, gpu.pcie_gb_s * gpu.count),
        unable=0.0 if any(can_run(each, label) for each in gpus) or not gpus else 1.0,
    )
