"""Checks the body of a request and reads the fields that routing needs; it bounds size, depth and messages.

All other fields stay the bytes that the caller sent; they are neither decoded nor judged here.  Nothing here waits.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from p2pnode.http.errors import ApiError, bad_parameter

#: Bytes of one body (DESIGN 2.7).
MOST_BYTES: Final = 8 * 1024 * 1024
#: Nesting of JSON (DESIGN 2.7): our decoder takes more, but an engine's may not.
MOST_DEPTH: Final = 64
#: Messages in one chat (DESIGN 2.7).
MOST_MESSAGES: Final = 4096
#: Bytes of a prompt per token (guess: good to a factor of two; engines report the truth).
BYTES_PER_TOKEN: Final = 4
#: Tokens that an image in a prompt counts for (guess: what common vision models use for one tile).
IMAGE_TOKENS: Final = 1024

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_DATA_URL = re.compile(rb'"data:[^"\\]{256,}"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class MaxPrice(msgspec.Struct):
    """OpenRouter's form: USD per million tokens."""

    prompt: float | None = None
    completion: float | None = None


class ProviderPreferences(msgspec.Struct):
    """Preferences in OpenRouter's vocabulary; as there, unknown fields are ignored."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sort: str | None = None
    max_price: MaxPrice | float | None = None
    allow_fallbacks: bool | None = None
    quantizations: tuple[str, ...] = ()
    require_parameters: bool | None = None


class Fields(msgspec.Struct):
    """The fields that routing reads.  Of a ``Raw`` field only the length or the presence counts."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    provider: ProviderPreferences | None = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()
    logprobs: msgspec.Raw = msgspec.Raw()
    previous_response_id: msgspec.Raw = msgspec.Raw()
    conversation: msgspec.Raw = msgspec.Raw()

    @property
    def tokens_out(self) -> int:
        """The caller's limit on the answer, 0 if it set none."""
        return self.max_completion_tokens or self.max_tokens or self.max_output_tokens or 0


_FIELDS: Final = msgspec.json.Decoder(Fields)
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_AT = re.compile(r" - at `\$\.?([^`]*)`$")


def read(body: bytes, needed: str) -> Fields:
    """The fields of a body in which ``needed`` (``messages``, ``prompt``, ``input``) must be; raises ``ApiError``."""
    check_depth(body)
    try:
        body.decode()  # the decoder does not notice invalid UTF-8 in fields that it skips
        fields = _FIELDS.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"The body is not valid JSON: {error}. Send one JSON object.") from None
    _check(fields, needed)
    return fields


def _invalid(error: msgspec.ValidationError) -> ApiError:
    text = str(error)
    found = _AT.search(text)
    param = found.group(1) if found else None
    what = _AT.sub("", text).replace("`", "")
    return bad_parameter(param or None, f"{param or 'The body'} is wrong: {what[:1].lower()}{what[1:]}.")


def _check(fields: Fields, needed: str) -> None:
    if not 0 < len(fields.model) <= 128 or not fields.model.isprintable():
        raise bad_parameter("model", "model must name a model: GET /v1/models lists the models on offer.")
    if not bytes(getattr(fields, needed)).strip():
        raise bad_parameter(needed, f"{needed} is missing.")
    for param in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if not 0 <= (getattr(fields, param) or 0) < 1 << 31:
            raise bad_parameter(param, f"{param} must be a positive number.")
    if needed == "messages":
        _check_messages(bytes(fields.messages))


def _check_messages(raw: bytes) -> None:
    try:
        count = len(_ITEMS.decode(raw))
    except msgspec.ValidationError:
        raise bad_parameter("messages", "messages must be an array.") from None
    if not 0 < count <= MOST_MESSAGES:
        raise bad_parameter("messages", f"messages has {count} entries; it must have 1 to {MOST_MESSAGES}.")


def check_depth(body: bytes) -> None:
    """Refuse JSON that is nested too deep, without decoding it."""
    if body.count(b"[") + body.count(b"{") <= MOST_DEPTH:
        return
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    for _ in range(MOST_DEPTH):  # each round removes the innermost level
        if not brackets:
            return
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(brackets) == before:
            return  # unbalanced: the decoder says where
    if brackets:
        raise ApiError(400, "invalid_json", f"The body is nested deeper than {MOST_DEPTH} levels.")


def prompt_tokens(fields: Fields) -> int:
    """About how many tokens the prompt has: its bytes over four, images at a flat rate."""
    total = 0
    for raw in (fields.messages, fields.prompt, fields.input, fields.instructions, fields.tools):
        data = bytes(raw)
        total += len(data)
        if b'"data:' in data:
            images = _DATA_URL.findall(data)
            total += sum(IMAGE_TOKENS * BYTES_PER_TOKEN - len(image) for image in images)
    return total // BYTES_PER_TOKEN


def without_provider(body: bytes) -> bytes:
    """The body as it is forwarded: without our own field, and with the bytes of all others unchanged."""
    fields = _OBJECT.decode(body)
    del fields["provider"]
    return msgspec.json.encode(fields)


def capabilities(fields: Fields) -> frozenset[str]:
    """The capabilities that a peer must have if the caller set ``require_parameters``."""
    if fields.provider is None or not fields.provider.require_parameters:
        return frozenset()
    wanted = {"tools": fields.tools, "response_format": fields.response_format, "logprobs": fields.logprobs}
    return frozenset(name for name, raw in wanted.items() if bytes(raw) not in (b"", b"null", b"false", b"[]"))


def too_big() -> ApiError:
    """413, for a body above the limit."""
    return ApiError(413, "request_too_large", f"The body is longer than {MOST_BYTES >> 20} MiB.", close=True)
