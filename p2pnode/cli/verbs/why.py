"""``p2pnode why``: explains the route of an imagined request, or of one that was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pnode.cli.exits import FAILED, OK
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.render import Column, count, print_json, print_table, print_whole, safe, seconds, text
from p2pnode.json_types import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """\b
Examples:
  p2pnode why mock-8b
  p2pnode why mock-8b --prompt-tokens 8000 --max-tokens 500
  p2pnode why --request req_…     what happened to a request that was sent

A term comes from what the peer declared, from what was measured on this node or
observed from here, from what past jobs have learned, or it is assumed.
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


def draw_route(route: JsonObject, options: Shared, console: Console | None = None, most: int | None = None) -> None:
    """Print the candidates, the likeliest first, with their terms; then the excluded peers with the reasons."""
    candidates, excluded = route["candidates"], route["excluded"]
    console = console or options.out
    about = f", policy {safe(route['policy'])}: {count(len(candidates), 'candidate')}"
    print_whole(console, text((safe(route["model"]), "bold"), about))
    for line in _order_lines(route):
        console.print(line, soft_wrap=True)
    likeliest = sorted(candidates, key=lambda candidate: -(candidate.get("odds") or 0.0))
    for place, candidate in enumerate(likeliest[:most], 1):
        console.print()
        who = f"{place}. {_who(candidate)}"
        print_whole(console, text((who, "bold"), f"  {_chance(candidate)}{_score(candidate)}"))
        console.print(f"   {_standing(candidate)}", soft_wrap=True)
        if words := (candidate.get("evidence") or {}).get("words"):
            console.print(f"   seen from here: {safe(words, 400)}", soft_wrap=True)
        if candidate["terms"]:
            print_table(console, TERMS, [_term(term) for term in candidate["terms"]])
    if excluded:
        console.print("\nleft out", style="bold")
        rows = [(_who(peer), safe(peer["reason"]), safe(peer.get("detail") or "", 400)) for peer in excluded]
        print_table(console, LEFT_OUT, rows)
    if not candidates:
        offered = any(peer["reason"] != "model" for peer in excluded)
        reason = "No peer can take it" if offered else "No peer offers it"
        options.err.print(f"{reason}. `p2pnode models` lists the models on offer.", soft_wrap=True)


TERMS = (
    Column("   term", whole=True),
    Column("value", right=True),
    Column("unit"),
    Column("source", whole=True),
    Column("age", right=True),
    Column("adds", right=True),
)
LEFT_OUT = (Column("peer", whole=True), Column("reason", whole=True), Column("detail", whole=True))


def _order_lines(route: JsonObject) -> list[str]:
    """How the order comes about, what it would be now, and what the runner-up would have needed."""
    lines = []
    if len(route["candidates"]) > 1 and route.get("drawn"):
        lines.append(f"Each request draws its order{_weights(route)}.")
        named = {candidate["peer"]: _who(candidate) for candidate in route["candidates"]}
        drawn = [named[peer] for peer in route["order"][:DRAWN_SHOWN]]
        more = len(route["order"]) - len(drawn)
        lines.append(f"This time: {', '.join(drawn)}" + (f", and {more} more." if more else "."))
    second = route.get("runner_up")
    if second is not None:
        lines.append(f"{_who(second)} is second to {_who(second['ahead'])}: {_needed(second)}.")
    return lines


#: Peers in the line with the drawn order.
DRAWN_SHOWN = 4


def _weights(route: JsonObject) -> str:
    temperature = route.get("temperature") or 0.0
    if not temperature:
        return ""
    if best_of := route.get("best_of"):
        return f" (temperature {temperature:g}); of the first {best_of} with a fresh load the soonest is asked first"
    return f" (temperature {temperature:g}): twice as good is first {2 ** (1 / temperature):.2g} times as often"


def _needed(second: JsonObject) -> str:
    """What a runner-up would have needed to be as good as the one ahead of it."""
    if second["needs"]:
        return f"it would need {' and '.join(second['needs'])}"
    gap = second["gap"]
    if not gap:
        return "they are equal"
    subject = "its first token" if second.get("by") == "first token" else "it"
    better = {
        "s": f"{subject} would have to be {seconds(gap)} sooner",
        "USD": f"it would have to be {gap:.2g} USD cheaper",
        "1/s": f"it would have to be {seconds(gap)} faster at each token",  # the score is minus the seconds per token
        "jobs": f"it would have to have {gap:.2g} jobs per slot less",
    }
    return better.get(second["unit"], f"its score would have to be {gap:.3g} higher")


def _who(peer: JsonObject) -> str:
    """A peer by its short id and its name."""
    return f"{peer['short']} {safe(peer.get('name') or '')}".rstrip()


def _chance(candidate: JsonObject) -> str:
    odds = candidate.get("odds")
    if odds is None:
        return ""
    return f"asked first in {percent(odds)} of requests, " if odds else "asked after the others, "


def percent(share: float) -> str:
    """A probability above 0 that does not look like never, and one below 1 that does not look like always."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{min(share, 0.999) if share < 1 else 1:.1%}".replace("%", " %").replace(".0 %", " %")


def _score(candidate: JsonObject) -> str:
    if candidate["terms"] and all(term["unit"] == "s" for term in candidate["terms"]):
        return f"expected after {seconds(max(0.0, -candidate['score']))}"
    return f"score {candidate['score']:.4g}"


def _standing(candidate: JsonObject) -> str:
    """Warm or cold, how far away, the link, and what it lacks."""
    rtt, link = candidate.get("rtt_ms"), candidate.get("link")
    facts = ["warm" if candidate["warm"] else "cold"]
    if link != "self" and rtt is not None:
        facts.append(f"{seconds(rtt / 1000)} away")
    if link is not None:
        facts.append("this node" if link == "self" else f"link: {link}")
    if candidate.get("needs"):
        facts.append(f"lacks {' and '.join(candidate['needs'])}")
    return ", ".join(facts)


def _term(term: JsonObject) -> list[str]:
    age, adds = term.get("age_s"), term["contribution"]
    return [
        "   " + safe(term["name"], 40),
        f"{term['value']:.4g}",
        safe(term["unit"] or "", 16),
        safe(term["source"], 12),
        seconds(age) if age else "-",
        f"{adds:+.4g}" if adds else "0",
    ]


ATTEMPTS = (
    Column("try", right=True),
    Column("peer", whole=True),
    Column("outcome", whole=True),
    Column("code", whole=True),
    Column("took", right=True),
)


def draw_job(job: JsonObject, options: Shared) -> None:
    """Print one request, attempt by attempt."""
    console = options.out
    print_whole(console, text((safe(job["id"]), "bold"), f" {safe(job.get('model') or '')}: {safe(job['state'])}"))
    rows = [
        (
            str(place),
            safe(str(attempt["peer"])[-8:]),
            safe(attempt.get("outcome") or "-", 20),
            safe(attempt.get("code") or "-", 40),
            seconds(attempt["ms"] / 1000) if attempt.get("ms") is not None else "-",
        )
        for place, attempt in enumerate(job.get("attempts", ()), 1)
    ]
    print_table(console, ATTEMPTS, rows)
    if not rows:
        options.err.print("No attempt was made.")
