"""``p2pnode run`` as it is, and beside the daemon what a measurement needs: SIGUSR1 changes its advert, and since when
it holds the changes of others is written down.

A change is another ``owner``, which is the node's name and how often it was told; the file has one line for each that
it made or got, ``[owner, seconds]``, on the clock that all processes of a machine share.  Nothing is asked of the
daemon meanwhile.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import trio

from p2pnode.cli import app
from p2pnode.cli.options import Shared, shared
from p2pnode.cli.verbs import run
from p2pnode.config import Config
from p2pnode.lifecycle import watch_parent, watch_signals
from p2pnode.node import Daemon, build, live
from p2pnode.state.home import open_home
from p2pnode.state.paths import Paths

PROGRAM: Final = ("-m", "tests.fullstack.observed_daemon")
#: In the home of the node.
FILE: Final = "changes.jsonl"
#: Seconds between looks at what is held: an author changes more rarely, and the view keeps the time of each.
LOOK_S: Final = 1.0


def owner_of(name: str, times: int) -> str:
    """What a node that was told so often to change says."""
    return f"{name} {times}"


def changes_of(home: Path) -> dict[str, float]:
    """Since when the node there has held what, on this machine's clock."""
    return dict(json.loads(line) for line in (home / FILE).read_text().splitlines())


async def told(config: Config, paths: Paths) -> None:
    """As ``p2pnode.node.run_node``, with two more tasks."""
    with open_home(paths) as home, (paths.home / FILE).open("w", buffering=1) as file:
        daemon = await build(config, home)
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            async with trio.open_nursery() as nursery:
                await nursery.start(watch_signals, daemon.stopping)
                nursery.start_soon(watch_parent, daemon.stopping)
                nursery.start_soon(_change, daemon, signals, file)
                nursery.start_soon(_note, daemon, file)
                await live(daemon)
                nursery.cancel_scope.cancel()


async def _change(daemon: Daemon, signals: AsyncIterator[int], file: Any) -> None:
    times, name = 0, daemon.config.node.name
    async for _ in signals:
        times += 1
        node = msgspec.structs.replace(daemon.config.node, owner=owner_of(name, times))
        daemon.config = msgspec.structs.replace(daemon.config, node=node)
        _write(file, node.owner, trio.current_time())
        daemon.advertise()


async def _note(daemon: Daemon, file: Any) -> None:
    seen = {""}
    while True:
        for record in daemon.swarm.view.records():
            owner = "" if record.is_self or record.advert is None else record.advert.owner
            if owner not in seen:
                seen.add(owner)
                _write(file, owner, record.advert_at)
        await trio.sleep(LOOK_S)


def _write(file: Any, owner: str, at: float) -> None:
    """``at`` is on trio's clock, which begins anywhere."""
    file.write(json.dumps([owner, at - trio.current_time() + time.perf_counter()]) + "\n")


@click.command(name="run")
@shared
def command(options: Shared, **flags: Any) -> int:
    return run.launch(options, flags, told)


command.params = run.command.params

if __name__ == "__main__":
    sys.exit(app.run(command=command, name="python -m tests.fullstack.observed_daemon"))
