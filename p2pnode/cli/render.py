"""Formats output: units, colours and tables that fit 80 columns.  Rich is imported when a verb draws.

Data goes to :func:`out`, messages to :func:`err`.  Colour follows the terminal, ``NO_COLOR`` and ``--no-color``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.table import Table

#: Columns when the output is no terminal: a log or a mail shows them without wrapping.
PLAIN_WIDTH = 80


def out(color: bool = True) -> Console:
    """The console for data: stdout."""
    return _console(sys.stdout, color)


def err(color: bool = True) -> Console:
    """The console for messages: stderr."""
    return _console(sys.stderr, color)


def _console(stream: IO[str], color: bool) -> Console:
    from rich.console import Console

    terminal = stream.isatty()
    width = None if terminal else int(os.environ.get("COLUMNS", PLAIN_WIDTH))
    plain = not color or "NO_COLOR" in os.environ
    return Console(file=stream, no_color=plain, highlight=False, width=width, soft_wrap=False, emoji=False)


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(columns: Iterable[str | tuple[str, str]], rows: Iterable[Sequence[str]]) -> Table:
    """A table without a frame; a column is its heading, or the heading and ``right``.

    If it is too wide, text columns are cut, but right-aligned numbers are not.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), collapse_padding=True)
    for column in columns:
        name, side = column if isinstance(column, tuple) else (column, "left")
        if side == "right":
            drawn.add_column(name, justify="right", no_wrap=True)
        else:
            drawn.add_column(Text(name, no_wrap=True, overflow="ellipsis"))
    for row in rows:
        cells = [Text.from_markup(cell, overflow="ellipsis") for cell in row]
        for cell in cells:
            cell.no_wrap = True
        drawn.add_row(*cells)
    return drawn


def safe(text: object, most: int = 64) -> str:
    """Text from the network, without control characters and markup, at most ``most`` characters."""
    clean = "".join(character if character.isprintable() else "?" for character in str(text))
    clean = clean if len(clean) <= most else clean[: most - 1] + "…"
    return clean.replace("[", "\\[")


def gib(mib: float | None) -> str:
    """MiB as GiB, one decimal below ten."""
    if not mib:
        return "-"
    value = mib / 1024
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def seconds(value: float | None) -> str:
    """A readable duration: 12 ms, 3.4 s, 5 min, 2 h, 3 d."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.1f} ms" if value < 0.01 else f"{value * 1000:.0f} ms"
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if value < limit:
            return f"{value / size:.1f} {unit}" if size == 1 and value < 10 else f"{value / size:.0f} {unit}"
    return f"{value / 86400:.0f} d"


def usd(value: float | None) -> str:
    """A price per million tokens; ``free`` for 0."""
    return "free" if not value else f"${value:g}"


def count(number: int, one: str, many: str = "") -> str:
    """``1 peer``, ``3 peers``."""
    return f"{number} {one if number == 1 else many or one + 's'}"
