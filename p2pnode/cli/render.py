"""Formats output: units, colours and tables that fit the terminal.  Rich is imported when a verb draws.

Data goes to :func:`out`, messages to :func:`err`.  Colour follows the terminal, ``NO_COLOR`` and ``--no-color``.  What
people copy, such as the name of a model, is never cut.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.text import Text

#: Columns when the output is no terminal and ``COLUMNS`` is not set: enough that a script sees every cell complete.
PLAIN_WIDTH: Final = 10_000
#: Spaces between two columns, and to how many characters text may be cut (guess: it is still recognised).
GAP: Final = 2
LEAST_TEXT: Final = 10


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
    return Console(
        file=stream, no_color=plain, highlight=False, width=width, soft_wrap=False, emoji=False, markup=False
    )


def print_json(value: object) -> None:
    """Print one JSON document on stdout; what a terminal would act on is escaped."""
    document = json.dumps(value, indent=2, ensure_ascii=False)
    shown = (
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in document
    )
    sys.stdout.write("".join(shown) + "\n")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    ``whole``: never cut, because people copy it; numbers (``right``) are never cut either.  ``spare``: left out if the
    terminal is too narrow, the highest first; 0 is always there.
    """

    name: str
    right: bool = False
    whole: bool = False
    spare: int = 0


def print_table(console: Console, columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table without a frame.

    If it is too wide, spare columns are left out, then text is cut.  If that does not suffice, the lines are longer
    than the terminal, which wraps them.
    """
    from rich.text import Text

    lines = [[Text(column.name, "bold") for column in columns]]
    lines += [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    natural = [max(line[place].cell_len for line in lines) for place in range(len(columns))]
    widths = fit(columns, natural, console.width)
    for line in lines:
        drawn = Text(" " * GAP).join(
            _fitted(cell, width, column.right)
            for cell, width, column in zip(line, widths, columns, strict=True)
            if width is not None
        )
        drawn.rstrip()
        print_whole(console, drawn)


def print_whole(console: Console, line: str | Text) -> None:
    """Print one line that is never cut nor broken here; a narrow terminal wraps it."""
    console.print(line, no_wrap=True, overflow="ignore", crop=False)


def fit(columns: Sequence[Column], natural: Sequence[int], total: int) -> list[int | None]:
    """The widths of the columns within ``total``, None for one that is left out."""
    widths: list[int | None] = list(natural)
    least = [
        width if column.whole or column.right else min(width, LEAST_TEXT)
        for column, width in zip(columns, natural, strict=True)
    ]

    def over(sizes: Sequence[int | None]) -> int:
        shown = [size for size, width in zip(sizes, widths, strict=True) if size is not None and width is not None]
        return sum(shown) + GAP * (len(shown) - 1) - total

    for spare, place in sorted(((column.spare, place) for place, column in enumerate(columns)), reverse=True):
        if spare and over(least) > 0:
            widths[place] = None
    while over(widths) > 0:
        slack = {place: width - least[place] for place, width in enumerate(widths) if width is not None}
        widest = max(slack, key=lambda place: slack[place])
        if slack[widest] <= 0:
            break
        widths[widest] = natural[widest] - min(slack[widest], over(widths))
    return widths


def _fitted(cell: Text, width: int, right: bool) -> Text:
    cell = cell.copy()
    cell.truncate(width, overflow="ellipsis")
    cell.pad_left(width - cell.cell_len) if right else cell.pad_right(width - cell.cell_len)
    return cell


def text(*parts: str | tuple[str, str]) -> Text:
    """One line from pieces, each plain or with a style: ``text(("ok", "green"), " all of it")``.

    Consoles print strings as they are: what a peer calls itself is never read as markup.
    """
    from rich.text import Text

    return Text.assemble(*parts)


def safe(value: object, most: int = 128) -> str:
    """Text from the network without control characters, at most ``most`` characters (128: the longest name)."""
    clean = "".join(character if character.isprintable() else "?" for character in str(value))
    return clean if len(clean) <= most else clean[: most - 1] + "…"


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
