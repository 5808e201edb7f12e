"""What a caller wishes of the route: the body's ``provider`` object and our headers, as a ``JobQuery``.

Nothing here waits; who calls it: ``openai`` for requests and dry runs.
"""

from __future__ import annotations

from typing import Final

from p2pnode.http.body import Fields, MaxPrice, ProviderPreferences, capabilities
from p2pnode.http.errors import ApiError, bad_parameter
from p2pnode.state.keys import ZONES, ApiKey, narrower
from protocol.routing.ranking import JobQuery

SORTS: Final = ("price", "throughput", "latency")
#: Length of an answer assumed where the caller sets no limit, tokens (guess: a paragraph or two).
USUAL_TOKENS: Final = 256
#: Milliseconds: the longest deadline or objective that is taken (a day).
MOST_MS: Final = 86_400_000
_NOTHING: Final = ProviderPreferences()


def job_query(
    fields: Fields, headers: dict[bytes, bytes], key: ApiKey | None, prompt_tokens: int, usual_zone: str
) -> JobQuery:
    """The query of a request; raises ``ApiError`` for a wish that cannot be understood."""
    wishes = fields.provider or _NOTHING
    if wishes.sort not in (None, *SORTS):
        raise bad_parameter("provider.sort", f"provider.sort must be one of {', '.join(SORTS)}.")
    first_token = milliseconds(headers, b"x-slo-ttft-ms")
    per_token = milliseconds(headers, b"x-slo-tpot-ms")
    sort = wishes.sort or ("latency" if first_token else "throughput" if per_token else None)
    only = wishes.only
    if wishes.allow_fallbacks is False and wishes.order:
        only = tuple(peer for peer in wishes.order if not only or peer in only)
    return JobQuery(
        model=fields.model,
        prompt_tokens=prompt_tokens,
        max_tokens=fields.tokens_out or USUAL_TOKENS,
        capabilities=capabilities(fields),
        quantizations=wishes.quantizations,
        max_price=_price(wishes),
        order=wishes.order,
        only=only,
        ignore=wishes.ignore,
        sort=sort,
        zone=zone(headers, key, usual_zone),
    )


def _price(wishes: ProviderPreferences) -> float | None:
    """USD per million tokens of the answer; the price of the prompt is not filtered by."""
    price = wishes.max_price.completion if isinstance(wishes.max_price, MaxPrice) else wishes.max_price
    if price is not None and not 0 <= price < 1e9:
        raise bad_parameter("provider.max_price", "provider.max_price must be USD per million tokens.")
    return price


def zone(headers: dict[bytes, bytes], key: ApiKey | None, usual: str) -> str:
    """How far the request may go: as asked for, else as usual here, but never further than the key allows."""
    wanted = headers.get(b"x-p2pnode-zone")
    text = wanted.decode("latin-1").strip().lower() if wanted is not None else None
    if text is not None and text not in ZONES:
        raise bad_parameter("x-p2pnode-zone", f"x-p2pnode-zone must be one of {', '.join(ZONES)}.")
    return narrower(text or usual, key.policy.zone if key is not None else "anyone")


def milliseconds(headers: dict[bytes, bytes], name: bytes) -> int | None:
    """The number in a header; None if it is not there."""
    value = headers.get(name)
    if value is None:
        return None
    if not value.isdigit() or not 0 < int(value[:12]) <= MOST_MS:
        label = name.decode()
        raise bad_parameter(label, f"{label} must be a whole number of milliseconds, 1 to {MOST_MS} (a day).")
    return int(value)


def unsupported(fields: Fields) -> ApiError | None:
    """What only a server with a memory could do (``/v1/responses``)."""
    for param in ("previous_response_id", "conversation"):
        if bytes(getattr(fields, param)) not in (b"", b"null"):
            return ApiError(
                400,
                "unsupported_parameter",
                f"{param} is not supported: answers are not kept. Send the whole conversation in input.",
                param=param,
            )
    return None
