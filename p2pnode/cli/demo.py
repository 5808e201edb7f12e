"""``p2pnode demo``: a network of real processes on loopback that finds itself, answers, loses a peer and goes on.

Every step is checked; the exit code is 0 only if all of it happened.  Nothing of it is staged: what is drawn is what
the API of the gateway returned.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Final

import click

from p2pnode.cli import peers as peers_verb
from p2pnode.cli import render, why
from p2pnode.cli.client import ApiError
from p2pnode.cli.exits import FAILED, OK, Exit
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.processes import Fleet, NotYet, until

#: Four cards that are really different: server and desktop, new and old, with room for the model.
GPUS: Final = {"ada": "RTX 4090", "grace": "RTX 3090", "alan": "A100 PCIe 80GB", "edsger": "L4"}
GATEWAY: Final = "gateway"
#: Seconds for the network to find itself: about 1 s when idle, six processes on two busy cores take longer.
JOIN_S: Final = 15.0
#: Seconds for one answer.
ANSWER_S: Final = 20.0
PROMPT: Final = "In two sentences: what is a peer-to-peer network?"

EPILOG = """\b
Examples:
  p2pnode demo
  p2pnode demo --json > summary.json

Needs no GPU: the four GPUs are simulated, their answers are made up and come
at the speed that each card would have. Everything else is real.
"""


@dataclass
class Step:
    """One thing that had to happen."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Story:
    """What has happened so far, told as it happens."""

    console: Any
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """One step; it counts as done when the block ends without an exception."""
        step = Step(name)
        self.steps.append(step)
        number = len(self.steps)
        self.console.print(f"\n[bold cyan]{number}. {name}[/]")
        started = time.monotonic()
        try:
            yield step
            step.ok = True
        except Exception as error:
            step.detail = str(error) or type(error).__name__
            raise
        finally:
            step.seconds = round(time.monotonic() - started, 2)
        self.console.print(f"   [green]ok[/] {step.detail} [dim]({step.seconds:.1f} s)[/]", soft_wrap=True)


def check(condition: bool, message: str) -> None:
    """A step fails with ``message`` unless ``condition`` holds."""
    if not condition:
        raise NotYet(message)


@click.command(name="demo", epilog=EPILOG)
@click.option(
    "--engine", type=click.Choice(["mock", "vllm"]), default="mock", show_default=True, help="What runs the model."
)
@click.option("--keep-logs", is_flag=True, help="Print the end of every log, also when all went well.")
@json_flag
@shared
def command(options: Shared, engine: str, keep_logs: bool, as_json: bool) -> int:
    """A bootstrap node, four GPU nodes and a gateway on this machine: ask, explain, kill a peer, ask again."""
    if engine == "vllm":
        raise Exit(FAILED, "the demo on vLLM is not there yet: run it with --engine mock")
    console = options.talk if as_json else options.out
    story = Story(console)
    started = time.monotonic()
    with _terminated_is_interrupted(), Fleet() as fleet:
        try:
            tell(story, fleet, Play(options))
        except (NotYet, ApiError, Exit, OSError, KeyError) as error:
            console.print(f"   [red]failed[/] {render.safe(error, 2000)}", soft_wrap=True)
        failed = [step for step in story.steps if not step.ok]
        if failed or keep_logs:
            _print_logs(fleet, console)
    elapsed = round(time.monotonic() - started, 1)
    if as_json:
        summary = {"ok": not failed, "seconds": elapsed, "steps": [asdict(step) for step in story.steps]}
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    if failed:
        console.print(f"\n[red bold]The demo failed at: {failed[0].name}.[/] The logs above end with the reason.")
        return FAILED
    console.print(f"\n[green bold]All of it happened[/], in {elapsed:.0f} s. Now yours: [bold]p2pnode run[/]")
    return OK


@dataclass
class Play:
    """What the acts of the demo hand to each other."""

    options: Shared
    model: str = ""
    served_by: str = ""


Act = Callable[[Story, Fleet, Play], None]


def tell(story: Story, fleet: Fleet, play: Play) -> None:
    """All acts in order; the first that fails ends the demo with its exception."""
    for act in ACTS:
        act(story, fleet, play)


def start(story: Story, fleet: Fleet, play: Play) -> None:
    """Six processes, all strangers to each other but for the address of the first."""
    del play
    with story.step("Start a bootstrap node, four nodes with a simulated GPU each, and a gateway without any") as step:
        seed = fleet.bootstrap().wait_ready()
        for name, gpu in GPUS.items():
            fleet.node(name, "--bootstrap", seed.address, "--engine", "mock", "--mock-gpu", gpu)
        fleet.node(GATEWAY, "--bootstrap", seed.address, "--engine", "none")
        for child in fleet.children.values():
            child.wait_ready()
        gateway = fleet.children[GATEWAY]
        step.detail = f"6 processes; any OpenAI client can use {gateway.ready['api']}"


def meet(story: Story, fleet: Fleet, play: Play) -> None:
    """The gateway knew one address; soon it knows everybody."""
    gateway = fleet.children[GATEWAY]
    with story.step("They find each other") as step:

        def everybody() -> list[dict[str, Any]] | None:
            seen = [peer for peer in gateway.api.get("/v1/p2p/peers")["data"] if peer["state"] == "alive"]
            return seen if len(seen) == len(fleet.children) and sum(bool(p["models"]) for p in seen) == 4 else None

        seen = until(everybody, f"the gateway sees all {len(fleet.children)} nodes", JOIN_S)
        story.console.print(peers_verb.draw(seen))
        models = gateway.api.get("/v1/models")["data"]
        check(bool(models), "the gateway lists no model")
        play.model = max(models, key=lambda model: model["p2pnode"]["peers"])["id"]
        step.detail = f"{len(seen)} nodes; {play.model} is offered by {_offers(seen, play.model)} of them"


def ask(story: Story, fleet: Fleet, play: Play) -> None:
    """One streamed answer through the gateway."""
    with story.step(f"Ask the gateway, which has no GPU, for {play.model}") as step:
        peer, text, headers = _ask(story, fleet, play.model)
        play.served_by = _name_of(fleet, peer)
        check(play.served_by not in ("", GATEWAY), f"the answer names {peer!r}, which is none of the four nodes")
        step.detail = (
            f"{len(text)} characters, served by {play.served_by} ({GPUS[play.served_by]}), "
            f"{headers.get('x-p2pnode-route', '?')}"
        )


def explain(story: Story, fleet: Fleet, play: Play) -> None:
    """The same decision, term by term."""
    with story.step("Ask why: every candidate, term by term") as step:
        body = {"model": play.model, "messages": [{"role": "user", "content": PROMPT}]}
        route, _ = fleet.children[GATEWAY].api.post("/v1/p2p/route", body, ANSWER_S)
        candidates = route["candidates"]
        check(len(candidates) == len(GPUS), f"{len(candidates)} candidates instead of {len(GPUS)}")
        check(all(candidate["terms"] for candidate in candidates), "a candidate without terms")
        why.draw_route(route | {"candidates": candidates[:2]}, play.options, story.console)
        step.detail = f"{len(candidates)} candidates, the best two shown"


def kill(story: Story, fleet: Fleet, play: Play) -> None:
    """SIGKILL to whoever served; nobody tells the gateway."""
    victim = fleet.children[play.served_by]
    with story.step(f"Kill {victim.name} (SIGKILL, no goodbye), and ask again at once") as step:
        victim.kill()
        peer, text, headers = _ask(story, fleet, play.model)
        other = _name_of(fleet, peer)
        check(other not in ("", GATEWAY, victim.name), f"the second answer came from {other or peer!r}")
        attempts = headers.get("x-p2pnode-attempts", "?")
        step.detail = f"{len(text)} characters, served by {other} ({GPUS[other]}), attempts: {attempts}"


def end(story: Story, fleet: Fleet, play: Play) -> None:
    """SIGTERM; everybody says goodbye and ends with 0."""
    del play
    with story.step("A clean end") as step:
        codes = fleet.stop_all()
        wrong = {name: code for name, code in codes.items() if code != 0}
        check(not wrong, f"exit codes {wrong}")
        step.detail = f"{len(codes)} nodes said goodbye and ended with 0"


ACTS: tuple[Act, ...] = (start, meet, ask, explain, kill, end)


def _ask(story: Story, fleet: Fleet, model: str) -> tuple[str, str, dict[str, str]]:
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 48, "stream": True}
    pieces: list[str] = []
    story.console.print("   [dim]>[/] ", end="")
    with fleet.children[GATEWAY].api.stream("/v1/chat/completions", body, ANSWER_S) as stream:
        for event in stream:
            for choice in event.get("choices", ()):
                piece = (choice.get("delta") or {}).get("content") or ""
                pieces.append(piece)
                story.console.print(piece, end="", markup=False, style="italic", soft_wrap=True)
        story.console.print()
        check(stream.done, "the stream ended without [DONE]")
    check(bool("".join(pieces)), "the answer was empty")
    return stream.headers.get("x-p2pnode-peer", ""), "".join(pieces), stream.headers


def _name_of(fleet: Fleet, peer: str) -> str:
    """The node whose peer id is, or ends with, what the header says."""
    matching = (child.name for child in fleet.children.values() if peer and child.peer_id.endswith(peer))
    return next(matching, "")


def _offers(peers: list[dict[str, Any]], model: str) -> int:
    return sum(any(offer["name"] == model for offer in peer["models"]) for peer in peers)


def _print_logs(fleet: Fleet, console: Any) -> None:
    for child in fleet.children.values():
        code = child.process.poll()
        state = "runs" if code is None else f"ended with {code}"
        console.print(f"\n[bold]log of {child.name}[/] ({state})")
        console.print(child.tail() or "(empty)", markup=False, soft_wrap=True)


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
