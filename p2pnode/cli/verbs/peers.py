"""``p2pnode peers``: prints this node's view of the network as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pnode.cli.exits import OK
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.render import Column, gib, print_json, print_table, safe, seconds, text
from p2pnode.json_types import JsonObject

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

COLUMNS = (
    Column("peer", whole=True),
    Column("name", whole=True),
    Column("gpu", spare=1),
    Column("GiB", right=True, spare=2),
    Column("load", right=True),
    Column("models", whole=True),
    Column("rtt", right=True, spare=3),
    Column("via"),
    Column("age", right=True, spare=4),
)
EVIDENCE = (Column("peer", whole=True), Column("name", whole=True), Column("seen from here", whole=True))
_COLORS = {"suspect": "yellow", "dead": "red", "left": "bright_black"}

EPILOG = """\b
Examples:
  p2pnode peers
  p2pnode peers --all
  p2pnode peers --json | jq '.data[].name'

GiB is free/total GPU memory; load is running+waiting jobs; a * marks a warm
model; via: self, direct (a link stands), - (known, no link yet). A narrow
terminal leaves out age, rtt, GiB and gpu, in this order.
"""


@click.command(name="peers", epilog=EPILOG)
@click.option("--all", "include_gone", is_flag=True, help="Also those that are dead or have left.")
@json_flag
@shared
def command(options: Shared, include_gone: bool, as_json: bool) -> int:
    """The nodes: GPU, memory, load, models (warm first), round trip, age of the advert; what was observed of them."""
    answer = options.api().get("/v1/p2p/peers")
    if as_json:
        print_json(answer)
        return OK
    peers = [peer for peer in answer["data"] if include_gone or peer["state"] not in ("dead", "left")]
    draw(peers, options.out)
    draw_evidence(peers, options.out)
    if len(peers) <= 1:
        options.err.print("No other node is known yet. Start a second node with the line that `p2pnode run` printed.")
    return OK


def draw(peers: list[JsonObject], console: Console) -> None:
    """Print these peers, this node first."""
    print_table(console, COLUMNS, [row(peer) for peer in _ordered(peers)])


def _ordered(peers: list[JsonObject]) -> list[JsonObject]:
    return sorted(peers, key=lambda peer: (not peer["self"], peer["state"] != "alive", peer["name"], peer["id"]))


def draw_evidence(peers: list[JsonObject], console: Console) -> None:
    """Print what this node has seen of the peers that offer a model."""
    said = [
        (peer["short"], safe(peer["name"]) or "-", safe(words, 400))
        for peer in _ordered(peers)
        if not peer["self"] and (words := (peer.get("evidence") or {}).get("words")) and peer["models"]
    ]
    if said:
        console.print()
        print_table(console, EVIDENCE, said)


def row(peer: JsonObject) -> list[Text]:
    """The cells of one peer."""
    color = _COLORS.get(peer["state"])
    load = peer.get("load") or {}
    busy = load.get("running", 0) + load.get("waiting", 0)
    memory = (
        f"{gib(peer.get('vram_free_mib'))}/{gib(peer.get('vram_total_mib'))}" if peer.get("vram_total_mib") else "-"
    )
    cells = [
        peer["short"],
        safe(peer["name"]) or "-",
        _gpus(peer["gpus"]),
        memory,
        str(busy) if load else "-",
        _models(peer["models"]),
        seconds(peer["rtt_ms"] / 1000) if peer.get("rtt_ms") is not None else "-",
        peer["state"] if color else peer["route"],
        seconds(peer.get("advert_age_s")),
    ]
    return [text((cell, color or "")) for cell in cells]


def _gpus(gpus: list[JsonObject]) -> str:
    if not gpus:
        return "-"
    first = gpus[0]
    return (f"{first['count']}×" if first["count"] > 1 else "") + safe(first["model"].removeprefix("NVIDIA "))


def _models(models: list[JsonObject]) -> str:
    warm_first = sorted(models, key=lambda model: (model["state"] != "resident", model["name"]))
    shown = [safe(model["name"]) + ("*" if model["state"] == "resident" else "") for model in warm_first[:1]]
    return ", ".join(shown) + (f" +{len(models) - 1}" if len(models) > 1 else "") or "-"
