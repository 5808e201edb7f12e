"""``p2pnode demo``: a network of real processes on loopback that answers requests, loses a peer and still answers.

It checks every step; the exit code is 0 only if all steps succeeded.  It prints the answers of the gateway's API.
The nodes are those of ``demo_fleet``.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from p2pnode.cli import render
from p2pnode.cli.client import ApiError
from p2pnode.cli.demo_fleet import FLEETS, DemoFleet
from p2pnode.cli.exits import FAILED, OK, Exit
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.processes import ENGINE_STOP_S, Fleet, NotYet, until
from p2pnode.cli.verbs import peers as peers_verb
from p2pnode.cli.verbs import why
from p2pnode.json_types import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

GATEWAY: Final = "gateway"
#: Seconds between two lines about loading engines, and between two polls of them.
PRINT_S: Final = 5.0
POLL_S: Final = 0.5
PROMPT: Final = "In two sentences: what is a peer-to-peer network?"

EPILOG = """\b
Examples:
  p2pnode demo
  p2pnode demo --json > summary.json

Needs no GPU: the four GPUs are simulated, their answers are made up and come
at the speed that each card would have. Everything else is real. With --engine
vllm two real vLLMs run a model of 6 MB that is made on the spot and says nothing
sensible; without a GPU they need the CPU build, 6 GB of memory and a minute.
"""


@dataclass
class Step:
    """One step and its result."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Report:
    """Prints the steps and keeps their results."""

    console: Console
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run one step; it succeeds if the block ends without an exception."""
        step = Step(name)
        self.steps.append(step)
        number = len(self.steps)
        self.console.print(render.text("\n", (f"{number}. {name}", "bold cyan")))
        started = time.monotonic()
        try:
            yield step
            step.ok = True
        except Exception as error:
            step.detail = str(error) or type(error).__name__
            raise
        finally:
            step.seconds = round(time.monotonic() - started, 2)
        took = (f" ({step.seconds:.1f} s)", "dim")
        self.console.print(render.text("   ", ("ok", "green"), f" {step.detail}", took), soft_wrap=True)


def check(condition: bool, message: str) -> None:
    """Fail the step with ``message`` unless ``condition`` holds."""
    if not condition:
        raise NotYet(message)


@click.command(name="demo", epilog=EPILOG)
@click.option(
    "--engine", type=click.Choice(list(FLEETS)), default="mock", show_default=True, help="The engine of the nodes."
)
@click.option("--keep-logs", is_flag=True, help="Print the end of every log, also when all went well.")
@json_flag
@shared
def command(options: Shared, engine: str, keep_logs: bool, as_json: bool) -> int:
    """A bootstrap node, some GPU nodes and a gateway on this machine: ask, explain, kill a peer, ask again."""
    demo = FLEETS[engine]
    demo.check()
    console = options.err if as_json else options.out
    report = Report(console)
    started = time.monotonic()
    with _terminated_is_interrupted(), Fleet() as fleet:
        try:
            run_all(report, fleet, Progress(options, demo))
        except (NotYet, ApiError, Exit, OSError, KeyError) as error:
            console.print(render.text("   ", ("failed", "red"), f" {render.safe(error, 2000)}"), soft_wrap=True)
        failed = [step for step in report.steps if not step.ok]
        if failed or keep_logs:
            _print_logs(fleet, console)
    elapsed = round(time.monotonic() - started, 1)
    if as_json:
        summary = {"ok": not failed, "seconds": elapsed, "steps": [asdict(step) for step in report.steps]}
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    if failed:
        what = (f"\nThe demo failed at: {failed[0].name}.", "red bold")
        console.print(render.text(what, " The logs above end with the reason."), soft_wrap=True)
        return FAILED
    said, own = ("\nAll of it happened", "green bold"), (f"{_own_command()} run", "bold")
    console.print(render.text(said, f", in {elapsed:.0f} s. Now yours: ", own), soft_wrap=True)
    return OK


def _own_command() -> str:
    """The command that starts this program: its name, or its path if it is not on ``PATH``."""
    own = Path(sys.executable).with_name("p2pnode")
    if shutil.which("p2pnode") or not own.exists():
        return "p2pnode"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


@dataclass
class Progress:
    """The facts that one step of the demo passes to the next."""

    options: Shared
    demo: DemoFleet
    model: str = ""
    served_by: str = ""


StepFunction = Callable[[Report, Fleet, Progress], None]


def run_all(report: Report, fleet: Fleet, progress: Progress) -> None:
    """Run all steps in order; the first failure ends the demo with its exception."""
    for step in STEPS:
        step(report, fleet, progress)


def start(report: Report, fleet: Fleet, progress: Progress) -> None:
    """Start the processes; each one knows only the address of the first."""
    with report.step(progress.demo.title) as step:
        seed = fleet.bootstrap().wait_ready()
        for name in progress.demo.workers:
            progress.demo.start(fleet, name, seed)
        fleet.node(GATEWAY, "--bootstrap", seed.address, "--engine", "none")
        for child in fleet.children.values():
            child.wait_ready()
        load(report, fleet, progress.demo)
        gateway = fleet.children[GATEWAY]
        step.detail = f"{len(fleet.children)} nodes; any OpenAI client can use {gateway.ready['api']}"


def load(report: Report, fleet: Fleet, demo: DemoFleet) -> None:
    """Wait until every engine serves; print their states every few seconds."""
    began = printed = time.monotonic()
    while True:
        engines = {name: fleet.children[name].api.get("/v1/p2p/status")["engine"] for name in demo.workers}
        for name, engine in engines.items():
            fleet.children[name].engine_group = engine["process_group"]
            check(engine["state"] in ("starting", "ready"), f"the engine of {name}: {engine['problem']}")
        if all(engine["state"] == "ready" for engine in engines.values()):
            return
        now = time.monotonic()
        check(now - began < demo.load_s, f"the engines are ready: not within {demo.load_s:g} s")
        if now - printed >= PRINT_S:
            printed = now
            states = " · ".join(f"{name}: {engine['problem'] or 'ready'}" for name, engine in engines.items())
            report.console.print(f"   {render.safe(states, 200)}", style="dim", soft_wrap=True)
        time.sleep(POLL_S)


def meet(report: Report, fleet: Fleet, progress: Progress) -> None:
    """Wait until the gateway, which started with one address, knows all nodes."""
    gateway = fleet.children[GATEWAY]
    with report.step("They find each other") as step:

        def all_nodes() -> list[JsonObject] | None:
            seen = [peer for peer in gateway.api.get("/v1/p2p/peers")["data"] if peer["state"] == "alive"]
            offering = sum(bool(peer["models"]) for peer in seen)
            return seen if len(seen) == len(fleet.children) and offering == len(progress.demo.workers) else None

        seen = until(all_nodes, f"the gateway sees all {len(fleet.children)} nodes", progress.demo.join_s)
        peers_verb.draw(seen, report.console)
        models = gateway.api.get("/v1/models")["data"]
        check(bool(models), "the gateway lists no model")
        progress.model = max(models, key=lambda model: model["p2pnode"]["peers"])["id"]
        step.detail = f"{len(seen)} nodes; {progress.model} is offered by {_offers(seen, progress.model)} of them"


def ask(report: Report, fleet: Fleet, progress: Progress) -> None:
    """Get one streamed answer through the gateway."""
    with report.step(f"Ask the gateway, which has no GPU, for {progress.model}") as step:
        peer, text, headers = _ask(report, fleet, progress)
        progress.served_by = _name_of(fleet, peer)
        check(
            progress.served_by not in ("", GATEWAY),
            f"the answer names {peer!r}, which is none of the nodes with an engine",
        )
        step.detail = (
            f"{len(text)} characters, served by {progress.served_by} ({progress.demo.workers[progress.served_by]}), "
            f"{headers.get('x-p2pnode-route', '?')}"
        )


def explain(report: Report, fleet: Fleet, progress: Progress) -> None:
    """Explain the same decision, term by term."""
    with report.step("Ask why: every candidate, term by term") as step:
        body = {"model": progress.model, "messages": [{"role": "user", "content": PROMPT}]}
        route, _ = fleet.children[GATEWAY].api.post("/v1/p2p/route", body, progress.demo.answer_s)
        candidates = route["candidates"]
        workers = len(progress.demo.workers)
        check(len(candidates) == workers, f"{len(candidates)} candidates instead of {workers}")
        check(all(candidate["terms"] for candidate in candidates), "a candidate without terms")
        why.draw_route(route, progress.options, report.console, most=2)
        step.detail = f"{len(candidates)} candidates, the likeliest two shown"


def kill(report: Report, fleet: Fleet, progress: Progress) -> None:
    """Kill the serving peer with SIGKILL, so that the gateway gets no notice, and ask again."""
    victim = fleet.children[progress.served_by]
    with report.step(f"Kill {victim.name} (SIGKILL, no goodbye), and ask it again at once") as step:
        victim.kill()
        peer, text, headers = _ask(report, fleet, progress, first=victim.peer_id)
        other = _name_of(fleet, peer)
        check(other not in ("", GATEWAY, victim.name), f"the second answer came from {other or peer!r}")
        attempts = headers.get("x-p2pnode-attempts", "?")
        step.detail = (
            f"{len(text)} characters, served by {other} ({progress.demo.workers[other]}), attempts: {attempts}"
        )
        if victim.engine_group:
            until(victim.engine_ended, f"the engine of {victim.name} has ended with it", ENGINE_STOP_S)
            step.detail += f"; the vLLM of {victim.name} died with it"


def end(report: Report, fleet: Fleet, progress: Progress) -> None:
    """Send SIGTERM; every node must say goodbye and end with 0."""
    with report.step("A clean end") as step:
        codes = fleet.stop_all(progress.demo.stop_s)
        wrong = {name: code for name, code in codes.items() if code != 0}
        check(not wrong, f"exit codes {wrong}")
        for child in fleet.children.values():
            until(child.engine_ended, f"the engine of {child.name} has ended with it", ENGINE_STOP_S)
        step.detail = f"{len(codes)} nodes said goodbye and ended with 0"


STEPS: tuple[StepFunction, ...] = (start, meet, ask, explain, kill, end)


def _ask(report: Report, fleet: Fleet, progress: Progress, first: str = "") -> tuple[str, str, dict[str, str]]:
    """Get one answer; ``first`` is the peer to ask before all others."""
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": progress.model, "messages": messages, "max_tokens": 48, "stream": True}
    body |= {"provider": {"order": [first]}} if first else {}
    pieces: list[str] = []
    report.console.print("   > ", style="dim", end="")
    with fleet.children[GATEWAY].api.stream("/v1/chat/completions", body, progress.demo.answer_s) as stream:
        for event in stream:
            for choice in event.get("choices", ()):
                piece = (choice.get("delta") or {}).get("content") or ""
                pieces.append(piece)
                report.console.print(piece, end="", style="italic", soft_wrap=True)
        report.console.print()
        check(stream.done, "the stream ended without [DONE]")
    check(bool("".join(pieces)), "the answer was empty")
    return stream.headers.get("x-p2pnode-peer", ""), "".join(pieces), stream.headers


def _name_of(fleet: Fleet, peer: str) -> str:
    """The node whose peer id ends with the text of the header."""
    matching = (child.name for child in fleet.children.values() if peer and child.peer_id.endswith(peer))
    return next(matching, "")


def _offers(peers: list[JsonObject], model: str) -> int:
    return sum(any(offer["name"] == model for offer in peer["models"]) for peer in peers)


def _print_logs(fleet: Fleet, console: Console) -> None:
    for child in fleet.children.values():
        code = child.process.poll()
        state = "runs" if code is None else f"ended with {code}"
        console.print(render.text((f"\nlog of {child.name}", "bold"), f" ({state})"))
        console.print(child.tail() or "(empty)", soft_wrap=True)
        if engine := child.tail(log=child.home / "logs" / "vllm.log"):
            console.print("\nlog of its vLLM", style="bold")
            console.print(engine, soft_wrap=True)


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM ends the demo like ctrl-C, so that the children are reaped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
