"""Generates the mock engine's text from the model, the prompt, the seed and the index of the choice, and nothing else.

So two nodes that mock the same model give the same answer, and a test can compare them word by word.  It also parses
the fields of an OpenAI request that the mock honours.  Not here: timing (``mock``) and JSON (``answers``).
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from p2pnode.engine.base import CHAT, COMPLETIONS, EMBEDDINGS, EngineFailed, EngineJob
from p2pnode.engine.words import WORDS
from p2pnode.json_types import JsonObject

#: Most choices of one request (OpenAI allows 128; a mock needs fewer).
MOST_CHOICES: Final = 16
#: The range of an answer's length without a limit, tokens, uniformly distributed (guess: usual sizes of a chat).
NATURAL_TOKENS: Final = (24, 192)
#: Characters per token, to count prompts (the usual rule for English text).
CHARACTERS_PER_TOKEN: Final = 4
#: Tokens that a chat template adds per message (ChatML: four).
TOKENS_PER_MESSAGE: Final = 4

#: The tokens of prose: a word after a space, or a punctuation mark.
_TOKENS: Final = (*(" " + word for word in WORDS), ",", ".", ";")


class Ask(msgspec.Struct):
    """The fields of a request that the mock honours; all others are ignored."""

    model: str = ""
    messages: list[JsonObject] | None = None
    prompt: str | list[object] | None = None
    input: str | list[object] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: JsonObject | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    response_format: JsonObject | None = None
    logprobs: bool | int | None = None
    continue_final_message: bool = False
    encoding_format: str = "float"
    dimensions: int | None = None

    @property
    def limit(self) -> int | None:
        """The caller's limit on the answer, tokens; ``None`` if it set none."""
        for value in (self.max_completion_tokens, self.max_output_tokens, self.max_tokens):
            if value is not None:
                return value
        return None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def usage_wanted(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice: its tokens, its finish reason, and the function that it calls (whose arguments are the tokens)."""

    tokens: tuple[str, ...]
    finish: str
    function: str = ""


_ASK: Final = msgspec.json.Decoder(Ask)


def read(job: EngineJob) -> Ask:
    """Parse the request of a job; raises ``EngineFailed``, which names the wrong field."""
    try:
        ask = _ASK.decode(job.body)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        param = where.strip(".`").split("[")[0].split(".")[0]
        raise EngineFailed(400, "invalid_parameter", f"{param or 'body'}: {message}", param) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineFailed(400, "invalid_json", f"the body is not valid JSON: {error}") from error
    needed = {CHAT: "messages", COMPLETIONS: "prompt"}.get(job.path, "input")
    if not getattr(ask, needed):
        raise EngineFailed(400, "invalid_parameter", f"{needed}: must be present and not empty", needed)
    if not 1 <= ask.choices <= MOST_CHOICES:
        raise EngineFailed(400, "invalid_parameter", f"n: must be between 1 and {MOST_CHOICES}", "n")
    if ask.limit is not None and ask.limit < 1:
        raise EngineFailed(400, "invalid_parameter", "max_tokens: must be at least 1", "max_tokens")
    return ask


def prompt_tokens(ask: Ask, path: str) -> int:
    """Tokens of the prompt, at four characters each."""
    if path == CHAT:
        return sum(_count(message.get("content")) + TOKENS_PER_MESSAGE for message in ask.messages or ())
    return _count(ask.prompt if path == COMPLETIONS else ask.input)


def _count(content: object) -> int:
    if isinstance(content, str):
        return -(-len(content) // CHARACTERS_PER_TOKEN)
    if isinstance(content, list):
        return sum(_count(item) for item in content)
    if isinstance(content, dict):
        return _count(content.get("text") or content.get("content"))
    return 1 if isinstance(content, int) else 0


def digest(ask: Ask, path: str, seed: int, salt: object = 0) -> int:
    """The number that seeds the text."""
    messages = ask.messages
    if ask.continue_final_message and messages:
        messages = messages[:-1]
    subject = (ask.model, messages if path == CHAT else ask.prompt or ask.input, ask.seed, seed, str(salt))
    return int.from_bytes(hashlib.blake2b(msgspec.json.encode(subject), digest_size=8).digest(), "big")


def generate(ask: Ask, path: str, seed: int, index: int, room: int) -> Choice:
    """Choice ``index`` of the answer, at most ``room`` tokens long (the rest of the context)."""
    rng = random.Random(digest(ask, path, seed, index))
    limit = min(room, ask.limit if ask.limit is not None else room)
    function = _forced_function(ask)
    if function is not None:
        parameters = function.get("parameters") or {"type": "object"}
        return _cut(_split(_instance(parameters, rng)), limit, "tool_calls", function["name"])
    schema = _wanted_schema(ask)
    if schema is not None:
        return _cut(_split(_instance(schema, rng)), limit, "stop")
    return _prose(ask, rng, limit)


def _prose(ask: Ask, rng: random.Random, limit: int) -> Choice:
    natural = max(ask.min_tokens, rng.randint(*NATURAL_TOKENS))
    length = limit if ask.ignore_eos else min(natural, limit)
    tokens = tuple(rng.choices(_TOKENS, k=length))
    prefix = _prefix(ask)
    if prefix:
        tokens = _after(tokens, prefix)
    stops = [ask.stop] if isinstance(ask.stop, str) else ask.stop or []
    for end in _stop_positions("".join(tokens), stops):
        return Choice(tuple(_until(tokens, end)), "stop")
    return Choice(tokens, "length" if length == limit and (ask.ignore_eos or natural > limit) else "stop")


def _prefix(ask: Ask) -> str:
    """The part of the answer that the caller already has (``continue_final_message``)."""
    if not (ask.continue_final_message and ask.messages):
        return ""
    content = ask.messages[-1].get("content")
    return content if isinstance(content, str) else ""


def _after(tokens: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    """The tokens after ``prefix``, or all of them if the answer does not begin with it."""
    text = ""
    for position, token in enumerate(tokens):
        if text == prefix:
            return tokens[position:]
        text += token
    return () if text == prefix else tokens


def _stop_positions(text: str, stops: list[str]) -> list[int]:
    found = [position for stop in stops if stop and (position := text.find(stop)) >= 0]
    return [min(found)] if found else []


def _until(tokens: tuple[str, ...], end: int) -> list[str]:
    kept: list[str] = []
    for token in tokens:
        if end <= 0:
            break
        kept.append(token[:end])
        end -= len(token)
    return kept


def _cut(tokens: list[str], limit: int, finish: str, function: str = "") -> Choice:
    return Choice(tuple(tokens[:limit]), finish if len(tokens) <= limit else "length", function)


def _split(value: object) -> list[str]:
    text = msgspec.json.encode(value).decode()
    return [text[i : i + CHARACTERS_PER_TOKEN] for i in range(0, len(text), CHARACTERS_PER_TOKEN)]


def _forced_function(ask: Ask) -> JsonObject | None:
    """The function that the answer must call: the one of ``tool_choice``, or the first if a call is required."""
    functions = [tool["function"] for tool in ask.tools or () if isinstance(tool.get("function"), dict)]
    functions = [function for function in functions if isinstance(function.get("name"), str)]
    if isinstance(ask.tool_choice, dict):
        wanted = (ask.tool_choice.get("function") or {}).get("name")
        chosen: JsonObject | None = next((function for function in functions if function["name"] == wanted), None)
        if chosen is None:
            raise EngineFailed(400, "invalid_parameter", f"tool_choice: no tool is called {wanted!r}", "tool_choice")
        return chosen
    return functions[0] if ask.tool_choice == "required" and functions else None


def _wanted_schema(ask: Ask) -> JsonObject | None:
    kind = (ask.response_format or {}).get("type")
    if kind == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    if kind == "json_schema":
        wrapper = (ask.response_format or {}).get("json_schema") or {}
        schema: JsonObject = wrapper.get("schema") or {"type": "object"}
        return schema
    return None


def _instance(schema: JsonObject, rng: random.Random) -> object:
    """A value that the schema allows, for the part of JSON Schema that tools use."""
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else rng.choice(schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object" or "properties" in schema:
        return {name: _instance(part, rng) for name, part in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_instance(schema.get("items") or {}, rng) for _ in range(max(1, schema.get("minItems", 1)))]
    if kind in ("integer", "number"):
        low = schema.get("minimum", 0)
        return low + rng.randint(0, int(schema.get("maximum", low + 9) - low))
    if kind in ("boolean", "null"):
        return rng.random() < 0.5 if kind == "boolean" else None
    return "".join(rng.choices(_TOKENS[:-3], k=3)).strip()


def embed(ask: Ask, seed: int, dimensions: int) -> list[tuple[list[float], int]]:
    """A unit vector and the number of tokens for each input."""
    given = ask.input if isinstance(ask.input, list) else [ask.input]
    numbers = bool(given) and all(isinstance(item, int) for item in given)  # one input, as token ids
    inputs = cast("list[str | list[object] | None]", [given] if numbers else given)
    vectors = []
    for item in inputs:
        rng = random.Random(digest(Ask(model=ask.model, input=item), EMBEDDINGS, seed))
        raw = [rng.gauss(0.0, 1.0) for _ in range(dimensions)]
        norm = sum(value * value for value in raw) ** 0.5
        vectors.append(([value / norm for value in raw], _count(item)))
    return vectors
