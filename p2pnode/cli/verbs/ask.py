"""``p2pnode ask``: one chat; it streams the answer to stdout and prints the serving peer on stderr."""

from __future__ import annotations

import sys
import time

import click

from p2pnode.cli.client import Api, ApiError, Stream
from p2pnode.cli.exits import OK, failed
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.render import print_json, safe, seconds
from p2pnode.json_types import JsonObject

EPILOG = """\b
Examples:
  p2pnode ask mock-8b "Why is the sky blue?"
  git diff | p2pnode ask mock-8b -
  p2pnode ask mock-8b --system "Answer in one word." "Capital of France?"
"""


@click.command(name="ask", epilog=EPILOG)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="A system message before the prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, tokens.")
@click.option("--temperature", type=float, help="As the engine understands it.")
@json_flag
@shared
def command(
    options: Shared, model: str, prompt: str | None, system: str | None, as_json: bool, **sampling: object
) -> int:
    """Ask MODEL one thing and stream the answer.  PROMPT of - (or none, in a pipe) reads stdin."""
    body: JsonObject = {"model": model, "messages": _messages(system, _prompt(prompt))}
    body |= {name: value for name, value in sampling.items() if value is not None}
    api = options.api()
    try:
        if as_json:
            answer, _ = api.post("/v1/chat/completions", body)
            print_json(answer)
        else:
            _stream(api, body, options)
    except ApiError as error:
        hint = f" (request {error.headers['x-request-id']})" if error.headers.get("x-request-id") else ""
        raise failed(f"{error.message}{hint}") from None
    return OK


def _stream(api: Api, body: JsonObject, options: Shared) -> None:
    started = time.monotonic()
    first: float | None = None
    with api.stream("/v1/chat/completions", body | {"stream": True, "stream_options": {"include_usage": True}}) as got:
        tokens = 0
        try:
            for event in got:
                for text in _texts(event):
                    first = time.monotonic() if first is None else first
                    sys.stdout.write(text)
                    sys.stdout.flush()
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        finally:
            sys.stdout.write("\n")
            sys.stdout.flush()
        options.err.print(_served(got, tokens, started, first), style="dim", soft_wrap=True)


def _served(stream: Stream, tokens: int, started: float, first: float | None) -> str:
    headers = stream.headers
    attempts = headers.get("x-p2pnode-attempts", "1")
    parts = [
        f"served by {safe(headers.get('x-p2pnode-peer', 'this node'))} ({safe(headers.get('x-p2pnode-route', '?'))})",
        f"attempt {attempts}" if attempts != "1" else "",
        f"first token {seconds(first - started)}" if first else "",
    ]
    now = time.monotonic()
    if tokens and first and now > first:
        parts.append(f"{tokens} tokens, {tokens / (now - first):.0f}/s")
    parts.append(f"request {safe(headers.get('x-request-id', '?'))}")
    return ", ".join(part for part in parts if part)


def _texts(event: JsonObject) -> list[str]:
    return [text for choice in event.get("choices", ()) if (text := (choice.get("delta") or {}).get("content"))]


def _prompt(prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("there is no prompt: give a PROMPT, or - to read it from stdin.")
    text = sys.stdin.read()
    if not text.strip():
        raise click.UsageError("stdin was empty, so there is nothing to ask.")
    return text


def _messages(system: str | None, prompt: str) -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": prompt}]
