"""The options that every verb takes, before or after its name.

A verb receives them as a ``Shared``, which derives the home, the consoles and the daemon's API from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from p2pnode.cli import render
from p2pnode.cli.client import Api
from p2pnode.cli.exits import USAGE, Exit, failed
from p2pnode.state.paths import Paths, find_paths

if TYPE_CHECKING:
    from rich.console import Console

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Shared:
    """The global options; None if not given."""

    home: str | None = None
    no_color: bool = False
    log_format: str | None = None
    log_level: str | None = None

    @property
    def paths(self) -> Paths:
        """The paths of this node's files."""
        return find_paths(self.home)

    @property
    def out(self) -> Console:
        """The console for data."""
        return render.out(not self.no_color)

    @property
    def err(self) -> Console:
        """The console for messages."""
        return render.err(not self.no_color)

    def api(self) -> Api:
        """The API of the daemon with this home; if no daemon answers, its first call raises ``Exit(3)``.

        A running daemon writes its address into ``daemon.json``.  Without the file the configured address is used,
        so that the error names it.
        """
        paths = self.paths
        base, where = os.environ.get("P2PNODE_API_URL", "").removesuffix("/").removesuffix("/v1"), "P2PNODE_API_URL"
        if not base:
            base, where = _last_base(paths), f"home {paths.home}"
        return Api(base or _configured_base(paths), _key(paths), where)


def _last_base(paths: Paths) -> str:
    try:
        return str(json.loads(paths.daemon.read_text())["api"]).removesuffix("/v1")
    except (OSError, ValueError, KeyError):
        return ""


def _configured_base(paths: Paths) -> str:
    from p2pnode.config import ConfigError, load_config, reached_here

    try:
        host, port = load_config(paths.config).api_address
    except ConfigError as error:
        raise Exit(USAGE, str(error)) from None
    here = reached_here(host)
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def _key(paths: Paths) -> str | None:
    if "P2PNODE_API_KEY" in os.environ:
        return os.environ["P2PNODE_API_KEY"]
    try:
        return paths.api_key.read_text().strip()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise failed(f"cannot read {paths.api_key}: run this as the user who owns the daemon") from None


def _remember(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None and parameter.name:
        ctx.ensure_object(dict)[parameter.name] = value


def shared(function: Function) -> Function:
    """Give a verb the global options as well, and a ``Shared`` as its first argument."""

    @click.pass_context
    def wrapped(ctx: click.Context, /, *args: object, **kwargs: object) -> object:
        return ctx.invoke(function, Shared(**ctx.ensure_object(dict)), *args, **kwargs)

    wrapped.__doc__ = function.__doc__
    # Where click's decorators leave the options of a function that is no command yet.
    wrapped.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
    options = (
        click.option("--home", metavar="DIR", expose_value=False, callback=_remember, help="See p2pnode --help."),
        click.option("--no-color", is_flag=True, default=None, expose_value=False, callback=_remember, hidden=True),
        click.option(
            "--log-format",
            type=click.Choice(["auto", "pretty", "json"]),
            expose_value=False,
            callback=_remember,
            hidden=True,
        ),
        click.option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            expose_value=False,
            callback=_remember,
            hidden=True,
        ),
    )
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # no type says "the same parameters but the first"


def json_flag(function: Function) -> Function:
    """``--json``: print the answer of the endpoint."""
    return click.option("--json", "as_json", is_flag=True, help="Print exactly what the HTTP endpoint returns.")(
        function
    )
