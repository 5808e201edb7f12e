"""``make bench``: the table of what things cost, each ratio taken in one run.

``python -m tests.bench [ROW …] [--json]``; rows: ttft rps stream link decide gossip simulate start costs;
the last one writes its figures where ``--write FILE`` says.  The litellm ratio needs
litellm's proxy in ``.venv-litellm`` (installed on the first run) and is left out, with a word, where that fails.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import costs, decisions, gossip, network, simulation
from tests.bench.row import Row


def link(_: Path) -> list[Row]:
    """One link between two processes over Noise and yamux (``link_bench``)."""
    command = [sys.executable, str(Path(__file__).with_name("link_bench.py"))]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(out.splitlines()[-1])
    full, paced, idle = found["full_rate"], found["paced_50x50"], found["idle_1000"]
    dearest = max(paced["entry_cpu_percent"], paced["worker_cpu_percent"])
    memory = max(idle.values())
    sides = f"entry {paced['entry_cpu_percent']:.0f} %, worker {paced['worker_cpu_percent']:.0f} %"
    return [
        Row(
            "frames/s between two nodes",
            "≥ 100,000",
            f"{full['frames_s']:,.0f}",
            full["frames_s"] >= 100_000,
            "50 jobs of 100-byte frames, one link",
        ),
        Row("50 jobs × 50 tokens/s on one link", "≤ 20 % of a core a side", f"{dearest:.0f} %", dearest <= 20, sides),
        Row("1,000 idle streams", "≤ 100 KB each", f"{memory:.1f} KB", memory <= 100, "memory of the dearer side"),
    ]


#: Name on the command line -> what measures it.
ROWS: dict[str, Callable[[Path], list[Row]]] = {
    "start": network.start,
    "ttft": network.added_first_token,
    "rps": network.requests,
    "stream": network.streaming,
    "link": link,
    "decide": decisions.decide,
    "gossip": gossip.at_rest,
    "simulate": simulation.simulate,
    "costs": costs.costs,
}


def main(arguments: list[str]) -> int:
    """Measure the rows that were asked for (default: all) and print them."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    values = [value for option, value in itertools.pairwise(arguments) if option == "--write"]
    names = [name for name in arguments if not name.startswith("-") and name not in values] or list(ROWS)
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
