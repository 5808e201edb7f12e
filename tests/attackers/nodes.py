"""``python -m tests.attackers.nodes``: several daemons in one process, gateways and liars.

It takes the flags of ``p2pnode run``, and ``--as NAME=ROLE`` for each daemon, which has its own home in ``--home``.
ROLE is ``gateway`` (no engine), or ``CLAIMS:KIND`` for a liar: a name in ``CLAIMS`` and a kind of ``lies``.  A liar
offers the model ``model_of(NAME)``, and writes a line into ``jobs`` in its home for each job that it gets.  The ready
file has the facts of each daemon by its name.

One process for many daemons saves a second of a core for each; they share nothing but the event loop.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import trio

from p2pnode import node
from p2pnode.cli import app
from p2pnode.cli.options import Shared, shared
from p2pnode.cli.verbs import run
from p2pnode.config import Config, load_config
from p2pnode.environment import Environment
from p2pnode.jobs.worker import Worker
from p2pnode.lifecycle import Stopping, watch_parent, watch_signals
from p2pnode.ready_line import write_json
from p2pnode.state.home import open_home
from p2pnode.state.paths import Paths
from p2pnode.swarm.net import NetError
from p2pnode.swarm.peerlink import Channel
from protocol.perf.gpu_catalog import all_gpus
from protocol.statements.adverts import Advert, Gpu, Load
from protocol.statements.keys import Signer
from protocol.wire.messages import JobRequest, decode
from tests.attackers.lies import LIES, LiedTo

PROGRAM: Final = ("-m", "tests.attackers.nodes")
GATEWAY: Final = "gateway"
#: In the home of a liar: a line for each job.
JOBS: Final = "jobs"
#: Seconds after its last frame in which a liar lets the frame leave.
LINGER_S: Final = 0.2


def model_of(name: str) -> str:
    """The model with which one attacker is watched: other attackers do not offer it."""
    return f"{name}-8b"


@dataclass(frozen=True)
class Claims:
    """What a liar says of itself, whose own GPU is an RTX 4090."""

    gpus: tuple[Gpu, ...]
    slots: int

    def of(self, advert: Advert) -> Advert:
        return msgspec.structs.replace(advert, gpus=self.gpus) if self.gpus else advert

    def at(self, load: Load) -> Load:
        """It always looks idle."""
        slots = self.slots or load.slots
        return msgspec.structs.replace(load, running=0, waiting=0, queued_prefill_tokens=0, slots=slots)


def _machine(model: str, count: int, vram_mib: int, figure: Callable[[str], float]) -> Gpu:
    names = ("bandwidth_gb_s", "fp16_tflops", "bf16_tflops", "fp8_tflops", "int8_tops", "fp4_tflops")
    return Gpu(model, count, vram_mib, compute_capability=9.0, pcie_gb_s=64.0, **{name: figure(name) for name in names})


def _fastest(figure: str) -> float:
    return max(float(getattr(gpu, figure)) for gpu in all_gpus())


#: ``modest``: the truth.  ``bold``: two kinds of cards that no table has, eight of each, as fast as the fastest known.
#: ``boundless``: the largest figures that an advert can carry.
CLAIMS: Final = {
    "modest": Claims((), 0),
    "bold": Claims(tuple(_machine(f"Prototype {n}", 8, 80 * 1024, _fastest) for n in range(2)), 1024),
    "boundless": Claims((_machine("RTX 4090", 1, 24564, lambda _: 1e12),), 1 << 20),
}


class Liar(Worker):
    """A worker that does with each job what its kind does."""

    def __init__(self, kind: str, jobs: Path, engine: Any, signer: Signer, *rest: Any) -> None:
        super().__init__(engine, signer, *rest)
        self._lie = LIES[kind]
        self._jobs = jobs
        self._key = signer
        jobs.touch()

    async def on_job(self, channel: Channel, frames: list[tuple[int, bytes]]) -> None:
        request = decode(*frames[0])
        assert isinstance(request, JobRequest)
        with self._jobs.open("a") as file:
            file.write(f"{request.job.hex()}\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_body, channel, nursery.cancel_scope)
            try:
                await self._lie(LiedTo(channel, request, self._key))
                await trio.sleep(LINGER_S)
            except NetError:
                pass  # the victim has given it up
            nursery.cancel_scope.cancel()


async def _take_body(channel: Channel, scope: trio.CancelScope) -> None:
    """Take what the victim sends, and end the lie when the victim gives it up."""
    try:
        while True:
            await channel.receive()
    except NetError:
        if scope.cancel_called or channel.open:
            return
        await trio.sleep(LINGER_S)
        scope.cancel()


@contextmanager
def lying(kind: str, home: Path) -> Iterator[None]:
    """The daemon that is built here has a liar for its worker."""
    honest = node.Worker
    node.Worker = functools.partial(Liar, kind, home / JOBS)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        node.Worker = honest  # type: ignore[misc]


def let_claim(claims: Mapping[str, Claims]) -> None:
    """From now on the daemons of these names claim this."""
    advert_of, load_of = node.advert_of, node.load_of
    by_model = {model_of(name): each for name, each in claims.items()}

    def claimed(config: Config, *rest: Any) -> Advert:
        advert = advert_of(config, *rest)
        return claims[config.node.name].of(advert) if config.node.name in claims else advert

    def idle(engine: Any, *rest: Any, **more: Any) -> Load:
        load = load_of(engine, *rest, **more)
        offered = [offer.name for offer in engine.offers()] if engine is not None else []
        return next((by_model[name].at(load) for name in offered if name in by_model), load)

    node.advert_of, node.load_of = claimed, idle


async def run_all(roles: dict[str, str], flags: dict[str, Any], config: Config, paths: Paths) -> None:
    """Run the daemons until asked to stop."""
    let_claim({name: CLAIMS[role.split(":")[0]] for name, role in roles.items() if role != GATEWAY})
    stopping, facts = Stopping(), {}
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, stopping)
        nursery.start_soon(watch_parent, stopping)
        for name, role in roles.items():
            facts[name] = await nursery.start(_run_one, name, role, flags, paths.home / name)
        write_json(Path(config.http.ready_file), {"event": "ready", "nodes": facts})
        await stopping.asked.wait()
        nursery.cancel_scope.cancel()


async def _run_one(
    name: str, role: str, flags: dict[str, Any], folder: Path, *, task_status: trio.TaskStatus[Any]
) -> None:
    own = {"name": name, "ready_file": None, "engine": "none"}
    if role != GATEWAY:
        own |= {"engine": "mock", "model": (model_of(name),)}
    config = load_config(None, flags | own)
    with open_home(Paths(folder)) as home:
        if role == GATEWAY:
            daemon = await node.build(config, home, Environment())
        else:
            with lying(role.split(":")[1], folder):
                daemon = await node.build(config, home, Environment())
        await node.live(daemon, task_status=task_status)


@click.command(name="run")
@click.option("--as", "roles", multiple=True)
@shared
def command(options: Shared, roles: tuple[str, ...], **flags: Any) -> int:
    named = dict(role.split("=", 1) for role in roles)
    return run.launch(options, flags, functools.partial(run_all, named, flags))


command.params = [*run.command.params, *(each for each in command.params if each.name == "roles")]

if __name__ == "__main__":
    sys.exit(app.run(command=command, name="python -m tests.attackers.nodes"))
