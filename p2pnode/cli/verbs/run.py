"""``p2pnode run``: reads flags, environment and file, and runs the daemon in the foreground."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import click
import trio

from p2pnode.cli.exits import FAILED, OK, USAGE, Exit
from p2pnode.cli.options import Shared, shared
from p2pnode.config import Config, ConfigError, load_config
from p2pnode.json_types import JsonObject
from p2pnode.lifecycle import CannotStart, WrongFlag, starting
from p2pnode.state.paths import Paths

PROFILES = ["lan", "wan", "local", "test"]
ENGINES = ["auto", "vllm", "openai", "mock", "none"]
#: A composition root.
Root = Callable[[Config, Paths], Awaitable[None]]

EPILOG = """\b
Examples:
  p2pnode run --engine mock                  a simulated GPU, to look around
  p2pnode run --engine openai --engine-url http://127.0.0.1:11434/v1
  p2pnode run --model qwen3-8b=Qwen/Qwen3-8B@b968826d9c46dd60…
  p2pnode run --bootstrap /ip4/203.0.113.7/tcp/4411/p2p/12D3KooW…

Every flag is also P2PNODE_SECTION__KEY in the environment and a key of
config.toml; flags win over environment, environment over file. Ctrl-C once:
finish what runs, then end; twice: now.
"""


@click.command(name="run", epilog=EPILOG)
@click.option("--bootstrap", multiple=True, metavar="MULTIADDR", help="A node to join through (repeatable).")
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Where peers dial. [/ip4/0.0.0.0/tcp/4411]")
@click.option("--api", metavar="HOST:PORT", help="HTTP API; port 0 picks one. [127.0.0.1:8411]")
@click.option("--engine", type=click.Choice(ENGINES), metavar="KIND", help=f"{', '.join(ENGINES)}. [auto]")
@click.option("--engine-url", metavar="URL", help="For openai: any OpenAI-compatible server.")
@click.option("--model", multiple=True, metavar="NAME[=SOURCE]", help="A model to offer (repeatable).")
@click.option("--mock-gpu", metavar="NAME", help="For mock: the GPU to simulate. [RTX 4090]")
@click.option("--price-in", type=click.FloatRange(min=0), metavar="USD", help="Per million prompt tokens. [0]")
@click.option("--price-out", type=click.FloatRange(min=0), metavar="USD", help="Per million answer tokens. [0]")
@click.option("--name", help="Label shown to others.")
@click.option("--region", help="Label shown to others.")
@click.option("--owner", help="Label shown to others.")
@click.option("--policy", metavar="NAME", help="How candidates are ranked.")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    metavar="NAME",
    help=f"Intervals and deadlines: {', '.join(PROFILES)}. [wan]",
)
@click.option("--network", metavar="NAME", help="Only nodes of the same network talk to each other. [p2pnode]")
@click.option("--ready-file", type=click.Path(dir_okay=False), help="Written atomically when the API answers.")
@click.option("--no-auth", is_flag=True, default=None, help="Loopback only: the API asks for no key.")
@shared
def command(options: Shared, **flags: object) -> int:
    """The daemon, in the foreground: join the network, serve the OpenAI API, run models."""
    return launch(options, flags)


def launch(options: Shared, flags: JsonObject, root: Root | None = None) -> int:
    """Read the configuration and run a composition root (``run_node`` unless another one is given) until it ends."""
    from p2pnode import logs

    flags |= {"log_format": options.log_format, "log_level": options.log_level}
    paths = options.paths
    try:
        config = load_config(paths.config, flags)
    except ConfigError as error:
        raise Exit(USAGE, str(error)) from None
    logs.set_up(config.log.format, config.log.level, color=not options.no_color)
    try:
        with starting(CannotStart):
            trio.run(root or _run_node(), config, paths)
    except CannotStart as error:
        raise Exit(USAGE if isinstance(error, WrongFlag) else FAILED, str(error)) from None
    return OK


def _run_node() -> Root:
    from p2pnode.node import run_node

    return run_node
