"""``p2pnode models``: lists the models on offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pnode.cli.exits import OK
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.render import Column, print_json, print_table, safe, seconds, text, usd
from p2pnode.json_types import JsonObject

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = (
    Column("model", whole=True),
    Column("peers"),
    Column("context", right=True, spare=1),
    Column("quant.", spare=2),
    Column("in / out per M", whole=True),
    Column("wait", right=True),
    Column(""),
)

#: Counts of peers that have the model loaded, asleep in memory, or on disk.
_STATES = {"warm": "warm", "sleeping": "asleep", "on_disk": "disk"}

EPILOG = """\b
Examples:
  p2pnode models
  p2pnode models --json | jq -r '.data[].id'
"""


@click.command(name="models", epilog=EPILOG)
@json_flag
@shared
def command(options: Shared, as_json: bool) -> int:
    """The models on offer: peers with the model warm, sleeping or on disk; context, price, expected wait."""
    answer = options.api().get("/v1/models")
    if as_json:
        print_json(answer)
        return OK
    models = answer["data"]
    if not models:
        options.err.print(
            "No peer offers a model yet. Offer one with `p2pnode run --engine openai --engine-url URL`, or look at "
            "`p2pnode peers`."
        )
        return OK
    print_table(options.out, COLUMNS, [row(model) for model in models])
    if any(model.get("p2pnode", {}).get("simulated") for model in models):
        options.err.print("simulated: a mock engine answers with made-up text at the speed of the GPU it imitates.")
    return OK


def row(model: JsonObject) -> list[str | Text]:
    """The cells of one model."""
    facts = model.get("p2pnode", {})
    price_in, price_out = facts.get("price_in"), facts.get("price_out")
    ready = ", ".join(f"{facts[state]} {shown}" for state, shown in _STATES.items() if facts.get(state))
    return [
        safe(model["id"]),
        f"{facts.get('peers', '-')} ({ready})" if ready else str(facts.get("peers", "-")),
        str(facts.get("context_length") or "-"),
        safe(facts.get("quantization") or "-", 12),
        "free" if not price_in and not price_out else f"{usd(price_in)} / {usd(price_out)}",
        seconds(facts.get("expected_wait_s")),
        text(("simulated", "yellow")) if facts.get("simulated") else "",
    ]
