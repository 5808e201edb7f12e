"""``python -m bootstrap``: the command line of a bootstrap node; see ``README.md`` beside this file."""

from __future__ import annotations

import sys

import click

from p2pnode.cli import app
from p2pnode.cli.options import Shared, shared
from p2pnode.cli.verbs.run import PROFILES, launch

EPILOG = """\b
Example:
  python -m bootstrap --listen /ip4/0.0.0.0/tcp/4411

Ctrl-C once: say goodbye and end; twice: now.
"""


@click.command(name="bootstrap", epilog=EPILOG)
@click.option("--bootstrap", multiple=True, metavar="MULTIADDR", help="Another bootstrap node (repeatable).")
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Where nodes dial. [/ip4/0.0.0.0/tcp/4411]")
@click.option("--network", metavar="NAME", help="Only nodes of the same network talk to each other. [p2pnode]")
@click.option("--name", help="Label shown to others.")
@click.option("--region", help="Label shown to others.")
@click.option("--owner", help="Label shown to others.")
@click.option("--profile", type=click.Choice(PROFILES), metavar="NAME", help=f"Intervals: {', '.join(PROFILES)}. [wan]")
@click.option("--ready-file", type=click.Path(dir_okay=False), help="Written atomically when it listens.")
@shared
def command(options: Shared, **flags: object) -> int:
    """A bootstrap node: introduces nodes to each other, answers the DHT, runs no models."""
    from bootstrap.node import run_bootstrap  # noqa: PLC0415 - brings libp2p

    return launch(options, flags, run_bootstrap)


if __name__ == "__main__":
    sys.exit(app.run(command=command, name="python -m bootstrap"))
