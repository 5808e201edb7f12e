"""``p2pnode why``: explains the route of an imagined request, or of one that was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pnode.cli.exits import FAILED, OK
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.render import count, print_json, safe, seconds, table
from p2pnode.json_types import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """\b
Examples:
  p2pnode why mock-8b
  p2pnode why mock-8b --prompt-tokens 8000 --max-tokens 500
  p2pnode why --request req_…     what happened to a request that was sent
"""


@click.command(name="why", epilog=EPILOG)
@click.argument("model", required=False)
@click.option("--prompt-tokens", type=click.IntRange(min=0), default=0, help="Size of the prompt to imagine.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Length of the answer.")
@click.option("--request", metavar="ID", help="Explain a request that was sent (its x-request-id).")
@json_flag
@shared
def command(
    options: Shared, model: str | None, prompt_tokens: int, max_tokens: int, request: str | None, as_json: bool
) -> int:
    """Which peer would get a request for MODEL, and why: every candidate, term by term, and the excluded peers."""
    if (model is None) == (request is None):
        raise click.UsageError("give a MODEL to explain, or --request ID of a request that was sent.")
    if request is not None:
        job = options.api().get(f"/v1/jobs/{request}")
        print_json(job) if as_json else draw_job(job, options)
        return OK
    # The dry run estimates tokens from the prompt (bytes / 4), so this prompt has the length that gives that estimate.
    body = {
        "model": model,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "x" * 4 * prompt_tokens}],
    }
    answer, _ = options.api().post("/v1/p2p/route", body)
    print_json(answer) if as_json else draw_route(answer, options)
    return OK if answer["candidates"] else FAILED


def draw_route(route: JsonObject, options: Shared, console: Console | None = None) -> None:
    """Print the candidates, best first, with their terms; then the excluded peers with the reasons."""
    candidates, excluded = route["candidates"], route["excluded"]
    console = console or options.out
    console.print(
        f"[bold]{safe(route['model'])}[/], policy {safe(route['policy'])}: {count(len(candidates), 'candidate')}"
    )
    for place, candidate in enumerate(candidates, 1):
        warm = "warm" if candidate["warm"] else "cold"
        rtt = candidate.get("rtt_ms")
        away = f", {seconds(rtt / 1000)} away" if rtt is not None else ""
        title = f"{place}. {candidate['short']}  {safe(candidate.get('name') or '')}"
        console.print(f"\n[bold]{title}[/]  score {candidate['score']:.4g}  ({warm}{away})")
        if candidate["terms"]:
            console.print(table(TERMS, [_term(term) for term in candidate["terms"]]))
    if excluded:
        console.print("\n[bold]left out[/]")
        rows = [(peer["short"], safe(peer["reason"], 24), safe(peer.get("detail") or "", 44)) for peer in excluded]
        console.print(table(("peer", "reason", "detail"), rows))
    if not candidates:
        offered = any(peer["reason"] != "model" for peer in excluded)
        reason = "No peer can take it" if offered else "No peer offers it"
        options.err.print(f"{reason}. `p2pnode models` lists the models on offer.")


TERMS = ("  term", ("value", "right"), "unit", "source", ("age", "right"), ("adds", "right"))


def _term(term: JsonObject) -> list[str]:
    age = term.get("age_s")
    return [
        "  " + safe(term["name"], 22),
        f"{term['value']:.4g}",
        safe(term["unit"] or "", 12),
        safe(term["source"], 9),
        seconds(age) if age else "-",
        f"{term['contribution']:+.4g}",
    ]


def draw_job(job: JsonObject, options: Shared) -> None:
    """Print one request, attempt by attempt."""
    console = options.out
    console.print(f"[bold]{safe(job['id'])}[/] {safe(job.get('model') or '')}: {safe(job['state'])}")
    rows = [
        (
            str(place),
            safe(str(attempt["peer"])[-8:]),
            safe(attempt.get("outcome") or "-", 20),
            safe(attempt.get("code") or "-", 24),
            seconds(attempt["ms"] / 1000) if attempt.get("ms") is not None else "-",
        )
        for place, attempt in enumerate(job.get("attempts", ()), 1)
    ]
    console.print(table((("try", "right"), "peer", "outcome", "code", ("took", "right")), rows))
    if not rows:
        options.err.print("No attempt was made.")
