"""``make bench``: the table of what things cost, each ratio taken in one run.

``python -m tests.bench [ROW …] [--json]``; rows: ttft rps stream link decide gossip start.  The litellm ratio needs
litellm's proxy in ``.venv-litellm`` (installed on the first run) and is left out, with a word, where that fails.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.bench import decisions, gossip, network
from tests.bench.row import Row


def link_rows(_: Path) -> list[Row]:
    from tests.bench import link_bench

    return link_bench.rows()


#: Name on the command line -> what measures it.
ROWS: dict[str, Callable[[Path], list[Row]]] = {
    "start": network.start,
    "ttft": network.added_first_token,
    "rps": network.requests,
    "stream": network.streaming,
    "link": link_rows,
    "decide": decisions.decide,
    "gossip": gossip.at_rest,
}


def main(arguments: list[str]) -> int:
    """Measure the rows that were asked for (default: all) and print them."""
    names = [name for name in arguments if not name.startswith("-")] or list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        print(f"no such row: {', '.join(unknown)}; there are: {', '.join(ROWS)}", file=sys.stderr)
        return 2
    talk = Console(stderr=True)
    rows: list[Row] = []
    for name in names:
        talk.print(f"measuring {name} …")
        with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as folder:
            rows += ROWS[name](Path(folder))
    if "--json" in arguments:
        print(json.dumps([row.as_dict() for row in rows], indent=1))
        return 0
    table = Table("what", "target", "measured", "met", "how")
    for row in rows:
        table.add_row(row.what, row.target, row.measured, {True: "yes", False: "NO", None: ""}[row.met], row.how)
    Console(width=160 if not sys.stdout.isatty() else None).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
