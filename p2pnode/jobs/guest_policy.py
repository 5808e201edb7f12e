"""Checks a guest's request: it may use all of OpenAI's API, but no field that reaches beyond it.

Engines trust the sender of a request; some of their own fields make them fetch, load, evaluate or reorder things.
Those fields are refused by name (DESIGN 2.2); unknown fields pass.  Not here: limits of the API (``http``).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from protocol.wire.messages import JobRequest, Refuse

#: Fields that a guest must not set, and prefixes of such fields.
DENIED: Final = frozenset(
    {
        "prompt_embeds",
        "mm_processor_kwargs",
        "kv_transfer_params",
        "vllm_xargs",
        "logits_processors",
        "priority",
        "request_id",
        "prompt_logprobs",
    }
)
DENIED_PREFIXES: Final = ("chat_template", "lora")
#: Most choices and log-probabilities a guest may ask for.
MOST: Final = {"n": 4, "best_of": 4, "logprobs": 5, "top_logprobs": 5}
#: Longest picture or sound inside a request, bytes of base64.
MOST_MEDIA_BYTES: Final = 4 * 1024 * 1024

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: If this matches, the body may contain a URL that the engine would fetch, and is decoded completely.
_MAY_HOLD_URL: Final = re.compile(rb"_url|\\u", re.IGNORECASE)


def check_guest(request: JobRequest, body: bytes) -> Refuse | None:
    """The refusal of this request; None if a guest may send it."""
    try:
        body.decode()  # the decoder does not notice invalid UTF-8 in fields that it skips
        fields = _OBJECT.decode(body)
        return _check(request, fields) or _check_media(fields, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refuse(400, "invalid_json", f"The body is not a JSON object: {str(error)[:200]}.", "", True)


def _check(request: JobRequest, fields: dict[str, msgspec.Raw]) -> Refuse | None:
    for name, raw in fields.items():
        if (name in DENIED or name.startswith(DENIED_PREFIXES)) and bytes(raw) != b"null":
            return _refuse(name, f"{name} may only be used on one's own node: leave it out.")
    for name, most in MOST.items():
        if name in fields:
            value: object = msgspec.json.decode(fields[name])
            if isinstance(value, int | float) and value > most:
                return _refuse(name, f"{name} is {value}; a node that is not one's own allows {most}.")
    # The engine reads the body, and this node reads the REQ: the two must agree.
    if msgspec.json.decode(fields.get("model", b'""')) != request.model:
        return _refuse("model", "model in the body is not the one that was asked for.")
    if (msgspec.json.decode(fields.get("stream", b"false")) is True) != request.stream:
        return _refuse("stream", "stream in the body is not what was asked for.")
    return None


def _check_media(fields: dict[str, msgspec.Raw], body: bytes) -> Refuse | None:
    """Pictures and sound must be inside the request, because a node fetches nothing for a guest."""
    if not _MAY_HOLD_URL.search(body):
        return None
    for name in ("messages", "input"):
        if name in fields:
            where = _foreign_url(msgspec.json.decode(fields[name]), name)
            if where:
                return _refuse(
                    where, f"{where} must be a data: URL of at most 4 MiB: no node fetches things for others."
                )
    return None


def _foreign_url(value: object, where: str) -> str:
    """The path in ``value`` of a URL that is not a short ``data:`` URL; empty if there is none."""
    if isinstance(value, list):
        return next((found for i, item in enumerate(value) if (found := _foreign_url(item, f"{where}[{i}]"))), "")
    if not isinstance(value, dict):
        return ""
    for key, item in value.items():
        inside = f"{where}.{key}"
        if key.endswith("_url"):
            url = item.get("url") if isinstance(item, dict) else item
            if isinstance(url, str) and not (url.startswith("data:") and len(url) <= MOST_MEDIA_BYTES):
                return inside
        elif found := _foreign_url(item, inside):
            return found
    return ""


def _refuse(param: str, message: str) -> Refuse:
    return Refuse(400, "unsupported_parameter", message[:1000], param[:64], True)
