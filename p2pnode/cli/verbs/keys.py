"""``p2pnode keys``: manages API keys in the database of the node; a running daemon sees a change within seconds."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from p2pnode.cli.exits import OK, failed
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.render import Column, print_json, print_table, safe, seconds
from p2pnode.state.keys import FIRST_KEY, ApiKey, KeyProblem, fingerprint, new_secret, parse_policy, prepare_home
from p2pnode.state.ledger import Ledger

COLUMNS = (
    Column("name", whole=True),
    Column("zone", whole=True),
    Column("per minute", right=True),
    Column("age", right=True),
)

EPILOG = """\b
Examples:
  p2pnode keys new laptop
  p2pnode keys new guests --policy zone=local,rpm=60
  p2pnode keys ls
  p2pnode keys rm laptop

The secret is shown once; only its hash is stored. The first key is in the file
api-key of the home and is not listed here.
"""


@click.group(name="keys", epilog=EPILOG, no_args_is_help=True)
def command() -> None:
    """API keys: make one, list them, delete one."""


@command.command(name="new", epilog="\b\nExample:\n  p2pnode keys new laptop > laptop.key")
@click.argument("name")
@click.option("--policy", default="", metavar="TEXT", help="zone=local|mine|trusted|anyone and rpm=NUMBER.")
@json_flag
@shared
def new(options: Shared, name: str, policy: str, as_json: bool) -> int:
    """Make a key called NAME.  Only the secret goes to stdout, and it is shown once."""
    if not re.fullmatch(r"[\w.@-]{1,64}", name) or name == FIRST_KEY:
        message = f"{name!r} is no name for a key: up to 64 letters, digits, - _ . @, and not {FIRST_KEY!r}"
        raise click.UsageError(message)
    try:
        rights = parse_policy(policy)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    secret = new_secret()
    with _ledger(options) as ledger:
        try:
            ledger.add_key(ApiKey(name, fingerprint(secret), rights, time.time()))
        except (ValueError, OSError) as error:
            raise failed(f"{error}; `p2pnode keys ls` lists the keys") from None
    if as_json:
        print_json({"name": name, "key": secret, "zone": rights.zone, "rpm": rights.rpm})
    else:
        sys.stdout.write(secret + "\n")
        options.err.print(f"Key {safe(name)} made. This is the only time its secret is shown.", soft_wrap=True)
    return OK


@command.command(name="ls", epilog="\b\nExample:\n  p2pnode keys ls --json")
@json_flag
@shared
def listing(options: Shared, as_json: bool) -> int:
    """List the keys: names and rights, never secrets."""
    with _ledger(options) as ledger:
        keys = ledger.keys()
    if as_json:
        rows = [{"name": k.name, "zone": k.policy.zone, "rpm": k.policy.rpm, "created": int(k.created)} for k in keys]
        print_json({"object": "list", "data": rows})
        return OK
    cells = [
        (safe(k.name), k.policy.zone, str(k.policy.rpm or "no limit"), seconds(max(0.0, time.time() - k.created)))
        for k in keys
    ]
    print_table(options.out, COLUMNS, cells)
    if not keys:
        options.err.print("No keys but the first one, in the file api-key. Make one: p2pnode keys new NAME")
    return OK


@command.command(name="rm", epilog="\b\nExample:\n  p2pnode keys rm laptop")
@click.argument("name")
@shared
def remove(options: Shared, name: str) -> int:
    """Delete the key called NAME: the API no longer accepts it."""
    with _ledger(options) as ledger:
        try:
            gone = ledger.remove_key(name)
        except OSError as error:
            raise failed(str(error)) from None
    if not gone:
        raise failed(f"there is no key named {name!r}; `p2pnode keys ls` lists the keys")
    options.err.print(f"Key {safe(name)} is gone.")
    return OK


@contextmanager
def _ledger(options: Shared) -> Iterator[Ledger]:
    paths = options.paths
    try:
        prepare_home(paths.home)
    except KeyProblem as error:
        raise failed(str(error)) from None
    ledger = Ledger(paths.database)
    try:
        if ledger.problem:
            raise failed(ledger.problem)
        yield ledger
    finally:
        ledger.close()
