"""Turns a caller's routing preferences, the ``provider`` object and our headers, into a ``JobQuery``.

Nothing here waits or ranks.
"""

from __future__ import annotations

from typing import Final

from p2pnode.http.body import Fields, MaxPrice, ProviderPreferences, capabilities
from p2pnode.http.errors import ApiError, bad_parameter
from p2pnode.state.keys import ZONES, ApiKey, narrower
from protocol.routing.ranking import JobQuery

SORTS: Final = ("price", "throughput", "latency")
#: Length of an answer whose caller sets no limit, tokens (guess: a paragraph or two).
USUAL_TOKENS: Final = 256
#: The longest deadline or objective, milliseconds (a day).
MOST_MS: Final = 86_400_000
_NOTHING: Final = ProviderPreferences()


def job_query(
    fields: Fields, headers: dict[bytes, bytes], key: ApiKey | None, prompt_tokens: int, usual_zone: str
) -> JobQuery:
    """The query of a request; raises ``ApiError`` for an invalid preference."""
    preferences = fields.provider or _NOTHING
    if preferences.sort not in (None, *SORTS):
        raise bad_parameter("provider.sort", f"provider.sort must be one of {', '.join(SORTS)}.")
    first_token = milliseconds(headers, b"x-slo-ttft-ms")
    per_token = milliseconds(headers, b"x-slo-tpot-ms")
    sort = preferences.sort or ("latency" if first_token else "throughput" if per_token else None)
    only = preferences.only
    if preferences.allow_fallbacks is False and preferences.order:
        only = tuple(peer for peer in preferences.order if not only or peer in only)
    return JobQuery(
        model=fields.model,
        prompt_tokens=prompt_tokens,
        max_tokens=fields.tokens_out or USUAL_TOKENS,
        capabilities=capabilities(fields),
        quantizations=preferences.quantizations,
        max_price=_price(preferences),
        order=preferences.order,
        only=only,
        ignore=preferences.ignore,
        sort=sort,
        zone=zone(headers, key, usual_zone),
    )


def _price(preferences: ProviderPreferences) -> float | None:
    """USD per million tokens of the answer; the price of the prompt does not filter."""
    limit = preferences.max_price
    price = limit.completion if isinstance(limit, MaxPrice) else limit
    if price is not None and not 0 <= price < 1e9:
        raise bad_parameter("provider.max_price", "provider.max_price must be USD per million tokens.")
    return price


def zone(headers: dict[bytes, bytes], key: ApiKey | None, usual: str) -> str:
    """The zone of a request: the one in its header, else the usual one, but never wider than the key allows."""
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
    """The error of a field that needs stored conversations (``/v1/responses``); None if there is none."""
    for param in ("previous_response_id", "conversation"):
        if bytes(getattr(fields, param)) not in (b"", b"null"):
            return ApiError(
                400,
                "unsupported_parameter",
                f"{param} is not supported: answers are not kept. Send the whole conversation in input.",
                param=param,
            )
    return None
