"""The command ``p2pnode``: the global options, and the verbs, whose modules are imported on use.

Without a verb it only prints its help.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final, NoReturn

import click

from p2pnode import __version__
from p2pnode.cli.client import ApiError
from p2pnode.cli.exits import FAILED, INTERRUPTED, OK

#: Verbs and their help lines; the module of the same name has a command called ``command``.  The lines are here so
#: that the list of verbs needs no imports.
VERBS: Final = {
    "run": "The daemon, in the foreground: join, serve the API, run models.",
    "status": "This node in ten lines, and what is wrong with it.",
    "peers": "Who is there: GPU, memory, load, models, round trip.",
    "models": "What can be asked for now, on how many peers.",
    "ask": "One chat, streamed to the terminal.",
    "why": "Which peer would get a request, and why.",
    "keys": "API keys: new, ls, rm.",
    "doctor": "Check this machine; each failed line says what to do.",
    "demo": "A whole network on this machine in half a minute.",
    "sim": "The network simulator: run, compare, report.",
}


class Verbs(click.Group):
    """A group that imports its commands on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"p2pnode.cli.verbs.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


EPILOG = """\b
Examples:
  p2pnode demo                                  see it work, no GPU needed
  p2pnode run --engine mock                     a node with a simulated GPU
  p2pnode run --bootstrap /ip4/…/p2p/12D3KooW…  join the network of that node
  p2pnode ask mock-8b "Why is the sky blue?"

Exit codes: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 degraded, 130 interrupted.
"""


@click.command(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="p2pnode")
@click.option("--home", metavar="DIR", help="Where key, database and logs live (or P2PNODE_HOME).")
@click.option("--no-color", is_flag=True, default=None, help="No colours (also NO_COLOR).")
@click.option("--log-format", type=click.Choice(["auto", "pretty", "json"]), help="How the log looks.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much is logged.")
@click.pass_context
def app(ctx: click.Context, /, **given: object) -> None:
    """p2pnode turns independent GPUs into one OpenAI endpoint."""
    # The same options may follow the verb (``options.shared``); there they win.
    ctx.obj = {name: value for name, value in given.items() if value is not None}


def main(args: list[str] | None = None) -> NoReturn:
    """Run one verb and end the process with its exit code."""
    sys.exit(run(args))


def run(args: list[str] | None = None, command: click.Command = app, name: str = "p2pnode") -> int:
    """Run a command; returns the exit code.  A mistake of the user becomes one line on stderr."""
    try:
        result = command.main(args=args, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        if error.message or isinstance(error, click.UsageError):
            error.show()
        return error.exit_code
    except ApiError as error:
        click.echo(f"Error: {error.message}", err=True)
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout has ended (``p2pnode peers | head``).  That is no failure, but a flush would raise.
        sys.stdout = None
        return OK
    return result if isinstance(result, int) else OK
