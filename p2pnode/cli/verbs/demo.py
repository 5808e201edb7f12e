"""``p2pnode demo``: a network of real processes on loopback that finds itself, answers, loses a peer and goes on.

Every step is checked; the exit code is 0 only if all of it happened.  Nothing of it is staged: what is drawn is what
the API of the gateway returned.
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
from p2pnode.cli.demo_fleet import CASTS, Cast
from p2pnode.cli.exits import FAILED, OK, Exit
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.processes import ENGINE_STOP_S, Fleet, NotYet, until
from p2pnode.cli.verbs import peers as peers_verb
from p2pnode.cli.verbs import why
from p2pnode.json_types import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

GATEWAY: Final = "gateway"
#: Seconds between two lines about engines that load, and between two looks at them.
SAY_S: Final = 5.0
LOOK_S: Final = 0.5
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
    """One thing that had to happen."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Story:
    """What has happened so far, told as it happens."""

    console: Console
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
    "--engine", type=click.Choice(list(CASTS)), default="mock", show_default=True, help="What runs the model."
)
@click.option("--keep-logs", is_flag=True, help="Print the end of every log, also when all went well.")
@json_flag
@shared
def command(options: Shared, engine: str, keep_logs: bool, as_json: bool) -> int:
    """A bootstrap node, some GPU nodes and a gateway on this machine: ask, explain, kill a peer, ask again."""
    cast = CASTS[engine]
    cast.ready()
    console = options.talk if as_json else options.out
    story = Story(console)
    started = time.monotonic()
    with _terminated_is_interrupted(), Fleet() as fleet:
        try:
            tell(story, fleet, Play(options, cast))
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
    console.print(f"\n[green bold]All of it happened[/], in {elapsed:.0f} s. Now yours: [bold]{_own_command()} run[/]")
    return OK


def _own_command() -> str:
    """How to call this program from here: by its name, or by its path where it is not on ``PATH``."""
    own = Path(sys.executable).with_name("p2pnode")
    if shutil.which("p2pnode") or not own.exists():
        return "p2pnode"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


@dataclass
class Play:
    """What the acts of the demo hand to each other."""

    options: Shared
    cast: Cast
    model: str = ""
    served_by: str = ""


Act = Callable[[Story, Fleet, Play], None]


def tell(story: Story, fleet: Fleet, play: Play) -> None:
    """All acts in order; the first that fails ends the demo with its exception."""
    for act in ACTS:
        act(story, fleet, play)


def start(story: Story, fleet: Fleet, play: Play) -> None:
    """Some processes, all strangers to each other but for the address of the first."""
    with story.step(play.cast.scene) as step:
        seed = fleet.bootstrap().wait_ready()
        for name in play.cast.workers:
            play.cast.start(fleet, name, seed)
        fleet.node(GATEWAY, "--bootstrap", seed.address, "--engine", "none")
        for child in fleet.children.values():
            child.wait_ready()
        load(story, fleet, play.cast)
        gateway = fleet.children[GATEWAY]
        step.detail = f"{len(fleet.children)} nodes; any OpenAI client can use {gateway.ready['api']}"


def load(story: Story, fleet: Fleet, cast: Cast) -> None:
    """Until every engine serves; every few seconds a line says how far they are."""
    began = said = time.monotonic()
    while True:
        engines = {name: fleet.children[name].api.get("/v1/p2p/status")["engine"] for name in cast.workers}
        for name, engine in engines.items():
            fleet.children[name].engine_group = engine["process_group"]
            check(engine["state"] in ("starting", "ready"), f"the engine of {name}: {engine['problem']}")
        if all(engine["state"] == "ready" for engine in engines.values()):
            return
        now = time.monotonic()
        check(now - began < cast.load_s, f"the engines are ready: not within {cast.load_s:g} s")
        if now - said >= SAY_S:
            said = now
            states = " · ".join(f"{name}: {engine['problem'] or 'ready'}" for name, engine in engines.items())
            story.console.print(f"   [dim]{render.safe(states, 200)}[/]", soft_wrap=True)
        time.sleep(LOOK_S)


def meet(story: Story, fleet: Fleet, play: Play) -> None:
    """The gateway knew one address; soon it knows everybody."""
    gateway = fleet.children[GATEWAY]
    with story.step("They find each other") as step:

        def everybody() -> list[JsonObject] | None:
            seen = [peer for peer in gateway.api.get("/v1/p2p/peers")["data"] if peer["state"] == "alive"]
            offering = sum(bool(peer["models"]) for peer in seen)
            return seen if len(seen) == len(fleet.children) and offering == len(play.cast.workers) else None

        seen = until(everybody, f"the gateway sees all {len(fleet.children)} nodes", play.cast.join_s)
        story.console.print(peers_verb.draw(seen))
        models = gateway.api.get("/v1/models")["data"]
        check(bool(models), "the gateway lists no model")
        play.model = max(models, key=lambda model: model["p2pnode"]["peers"])["id"]
        step.detail = f"{len(seen)} nodes; {play.model} is offered by {_offers(seen, play.model)} of them"


def ask(story: Story, fleet: Fleet, play: Play) -> None:
    """One streamed answer through the gateway."""
    with story.step(f"Ask the gateway, which has no GPU, for {play.model}") as step:
        peer, text, headers = _ask(story, fleet, play)
        play.served_by = _name_of(fleet, peer)
        check(
            play.served_by not in ("", GATEWAY), f"the answer names {peer!r}, which is none of the nodes with an engine"
        )
        step.detail = (
            f"{len(text)} characters, served by {play.served_by} ({play.cast.workers[play.served_by]}), "
            f"{headers.get('x-p2pnode-route', '?')}"
        )


def explain(story: Story, fleet: Fleet, play: Play) -> None:
    """The same decision, term by term."""
    with story.step("Ask why: every candidate, term by term") as step:
        body = {"model": play.model, "messages": [{"role": "user", "content": PROMPT}]}
        route, _ = fleet.children[GATEWAY].api.post("/v1/p2p/route", body, play.cast.answer_s)
        candidates = route["candidates"]
        workers = len(play.cast.workers)
        check(len(candidates) == workers, f"{len(candidates)} candidates instead of {workers}")
        check(all(candidate["terms"] for candidate in candidates), "a candidate without terms")
        why.draw_route(route | {"candidates": candidates[:2]}, play.options, story.console)
        step.detail = f"{len(candidates)} candidates, the best two shown"


def kill(story: Story, fleet: Fleet, play: Play) -> None:
    """SIGKILL to whoever served; nobody tells the gateway."""
    victim = fleet.children[play.served_by]
    with story.step(f"Kill {victim.name} (SIGKILL, no goodbye), and ask it again at once") as step:
        victim.kill()
        peer, text, headers = _ask(story, fleet, play, first=victim.peer_id)
        other = _name_of(fleet, peer)
        check(other not in ("", GATEWAY, victim.name), f"the second answer came from {other or peer!r}")
        attempts = headers.get("x-p2pnode-attempts", "?")
        step.detail = f"{len(text)} characters, served by {other} ({play.cast.workers[other]}), attempts: {attempts}"
        if victim.engine_group:
            until(victim.engine_ended, f"the engine of {victim.name} has ended with it", ENGINE_STOP_S)
            step.detail += f"; the vLLM of {victim.name} died with it"


def end(story: Story, fleet: Fleet, play: Play) -> None:
    """SIGTERM; everybody says goodbye and ends with 0."""
    with story.step("A clean end") as step:
        codes = fleet.stop_all(play.cast.stop_s)
        wrong = {name: code for name, code in codes.items() if code != 0}
        check(not wrong, f"exit codes {wrong}")
        for child in fleet.children.values():
            until(child.engine_ended, f"the engine of {child.name} has ended with it", ENGINE_STOP_S)
        step.detail = f"{len(codes)} nodes said goodbye and ended with 0"


ACTS: tuple[Act, ...] = (start, meet, ask, explain, kill, end)


def _ask(story: Story, fleet: Fleet, play: Play, first: str = "") -> tuple[str, str, dict[str, str]]:
    """One answer; ``first`` is the peer to be asked before all others."""
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": play.model, "messages": messages, "max_tokens": 48, "stream": True}
    body |= {"provider": {"order": [first]}} if first else {}
    pieces: list[str] = []
    story.console.print("   [dim]>[/] ", end="")
    with fleet.children[GATEWAY].api.stream("/v1/chat/completions", body, play.cast.answer_s) as stream:
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


def _offers(peers: list[JsonObject], model: str) -> int:
    return sum(any(offer["name"] == model for offer in peer["models"]) for peer in peers)


def _print_logs(fleet: Fleet, console: Console) -> None:
    for child in fleet.children.values():
        code = child.process.poll()
        state = "runs" if code is None else f"ended with {code}"
        console.print(f"\n[bold]log of {child.name}[/] ({state})")
        console.print(child.tail() or "(empty)", markup=False, soft_wrap=True)
        if engine := child.tail(log=child.home / "logs" / "vllm.log"):
            console.print("\n[bold]log of its vLLM[/]")
            console.print(engine, markup=False, soft_wrap=True)


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
