"""``p2pnode status``: prints this node in ten lines, then its problems with their fixes."""

from __future__ import annotations

from collections.abc import Iterator

import click

from p2pnode.cli.exits import DEGRADED, OK
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.render import count, print_json, print_whole, safe, seconds, text
from p2pnode.json_types import JsonObject

#: Text, plain or with a style.
Piece = str | tuple[str, str]

EPILOG = """\b
Examples:
  p2pnode status
  p2pnode status --json | jq .peers

Exit code 0 when ready, 4 when it is not or something is wrong, 3 when no daemon
runs.
"""


@click.command(name="status", epilog=EPILOG)
@json_flag
@shared
def command(options: Shared, as_json: bool) -> int:
    """This node: id, addresses, API, engine, models, peers, jobs, problems and their fixes."""
    status = options.api().get("/v1/p2p/status")
    if as_json:
        print_json(status)
    else:
        console = options.out
        for name, *parts in lines(status):
            print_whole(console, text((f"{name:<9}", "bold"), " ", *parts))
        for problem in status.get("problems", ()):
            kind = problem.get("kind", "wrong")
            console.print(text((f"{kind:<5}", "yellow"), f"     {safe(problem['what'], 300)}"), soft_wrap=True)
            console.print(
                text(("  mend" if kind == "wrong" else "  note", "green"), f"    {safe(problem['fix'], 300)}"),
                soft_wrap=True,
            )
    wrong = [problem for problem in status.get("problems", ()) if problem.get("kind") != "wait"]
    return OK if status.get("ready") and not wrong else DEGRADED


def lines(status: JsonObject) -> Iterator[tuple[str, *tuple[Piece, ...]]]:
    """Make the lines, as a name and pieces of text, from the answer of ``/v1/p2p/status``."""
    name = f" ({safe(status['name'])})" if status.get("name") else ""
    state = ("ready", "green") if status.get("ready") else ("not ready", "yellow")
    yield "node", f"{safe(status['peer_id'])}{name}"
    yield "state", state, f", up {seconds(status['uptime_s'])}, version {safe(status['version'])}"
    listen = status.get("listen") or ["not listening"]
    yield "address", safe(listen[0], 120) + (f" (+{len(listen) - 1})" if len(listen) > 1 else "")
    yield "api", f"{safe(status['api'])}  ({safe(status['auth'])})"
    yield "engine", *_engine(status["engine"])
    yield "gpu", ", ".join(_gpu(gpu) for gpu in status.get("gpus", ())) or "none"
    models = [safe(model["name"]) for model in status.get("models", ())]
    yield "models", ", ".join(models) or "none of its own: requests go to peers"
    peers = status["peers"]
    yield "peers", f"{peers['alive']} alive, {peers['linked']} linked, {peers['known']} known" + _offers(peers)
    jobs = status["jobs"]
    running = count(jobs.get("running", 0), "job")
    yield "jobs", f"{running} running, {jobs.get('completed', 0)} completed, {jobs.get('failed', 0)} failed"
    gossip = status["gossip"]
    used, most = gossip["out_bytes_s"] / 1024, gossip["budget_bytes_s"] / 1024
    yield "gossip", f"{used:.1f} of {most:.0f} KiB/s up, policy {safe(status['policy'])}"


def _offers(peers: JsonObject) -> str:
    return f", {count(peers['models'], 'model')} offered" if "models" in peers else ""


def _engine(engine: JsonObject) -> Iterator[Piece]:
    yield f"{safe(engine['name'])}, {safe(engine['state'])}"
    if engine.get("simulated"):
        yield " (simulated: answers are made up)", "yellow"
    if engine.get("problem"):
        yield f": {safe(engine['problem'], 200)}"


def _gpu(gpu: JsonObject) -> str:
    number = f"{gpu['count']} × " if gpu.get("count", 1) > 1 else ""
    return f"{number}{safe(gpu['model'])} ({gpu.get('vram_mib', 0) / 1024:.0f} GiB)"
