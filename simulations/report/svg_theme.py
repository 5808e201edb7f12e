"""The theme of all pictures: matplotlib figures that become inline SVG for either colour scheme.

Colours are written as placeholders and become CSS variables, so that one drawing suits light, dark and print.  Text
uses the browser's own font.  Figures are narrow: a phone shows them almost at full size.  They have neither legend nor
rotated titles: the page writes legends in HTML, where they wrap.

The same content gives the same bytes: there are no dates, and ids come from the picture's name.  The module does not
use pyplot, so it has no global state and no figures to close.  Not here: the content of the pictures.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

#: Inches; 72 units of the drawing each.  331 units on a phone of 360 pixels keep the letters at ten pixels.
WIDTH: Final = 4.6
HEIGHT: Final = 2.7
#: Units of the drawing.
FONT: Final = 11
#: Letters of a name beside its row.
MOST_LETTERS: Final = 26
#: Placeholders, and the CSS variables they become.
INK, MUTED, GRID, SHADE = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f"
SERIES: Final = tuple(f"#0c0d{i:02x}" for i in range(8))
VARIABLES: Final = {INK: "ink", MUTED: "muted", GRID: "grid", SHADE: "shade"} | {
    colour: f"c{i}" for i, colour in enumerate(SERIES)
}
DASHES: Final = ((), (5, 2), (1.5, 1.5))
MARKERS: Final = "os^DvPX*"
#: Letters that the measuring font has; anything else is shown as a question mark inside a drawing.
UNKNOWN: Final = re.compile(r"[^\x20-\x7e\u00a0-\u024f·…–≤≥×∝]")
OPTIONS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.size": FONT,
    "font.family": ["DejaVu Sans"],
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a line looks: a colour, a dash and a marker, so that it can be told without colours too."""

    index: int = 0
    #: The ceiling or the reference: dashed, without a colour of its own.
    reference: bool = False

    @property
    def colour(self) -> str:
        return MUTED if self.reference else SERIES[self.index % len(SERIES)]

    @property
    def variable(self) -> str:
        return f"var(--{VARIABLES[self.colour]})"

    @property
    def dash(self) -> tuple[float, ...]:
        return DASHES[1] if self.reference else DASHES[(self.index // len(SERIES)) % len(DASHES)]

    @property
    def marker(self) -> str:
        return "" if self.reference else MARKERS[self.index % len(MARKERS)]


@dataclass(frozen=True, slots=True)
class Legend:
    """One entry: its name and its look; ``dots`` where points are marked."""

    label: str
    style: Style
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing, and the label that tells it from its neighbours."""

    svg: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Drawings that answer one question, with the sentence on how to read them."""

    key: str
    title: str
    reading: str
    panels: tuple[Panel, ...]
    legend: tuple[Legend, ...] = ()
    note: str = ""
    #: From, to, and the colours between, for maps.
    scale: tuple[str, str, tuple[str, ...]] | None = None
    #: Metrics and swept keys that it covers, so that the fallback need not show them again.
    covers: frozenset[tuple[str, str]] = field(default_factory=frozenset)


def sheet(height: float = HEIGHT, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure with its axes one under the other, dressed."""
    with mpl.rc_context(OPTIONS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        grid: Any = figure.subplots(rows, 1, sharex=True, squeeze=False)
        axes: list[Axes] = list(grid[:, 0])
        for ax in axes:
            dress(ax)
    return figure, axes


def row_sheet(names: Sequence[str]) -> tuple[Figure, Axes]:
    """An empty figure with one row for each name; the first is on top, at nought, the next ones below it."""
    figure, (ax,) = sheet(0.75 + 0.27 * len(names))
    short = [words if len(words) <= MOST_LETTERS else words[: MOST_LETTERS - 1] + "…" for words in names]
    ax.set_yticks([-row for row in range(len(names))], [plain(words) for words in short])
    return figure, ax


def dress(ax: Axes) -> None:
    """Quiet axes: one line below, faint lines across, grey letters."""
    ax.patch.set_visible(False)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)
    ax.tick_params(axis="both", which="both", length=0, labelcolor=MUTED, labelsize=FONT)
    ax.tick_params(axis="x", which="major", length=3, color=MUTED)
    ax.grid(visible=True, axis="y", color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.margins(x=0.03)


def titles(ax: Axes, *, y: str = "", x: str = "") -> None:
    """The quantity and its unit above the axis, where a phone has room; the other below."""
    if y:
        ax.set_title(plain(y), loc="left", fontsize=FONT, color=INK, pad=7)
    if x:
        ax.set_xlabel(plain(x), color=MUTED, loc="right", fontsize=FONT)


def plain(text: str) -> str:
    """Only letters that the font for measuring has: others would warn, and be measured wrongly."""
    return UNKNOWN.sub("?", text)


def figure_of(value: float, _position: object = None) -> str:
    """A number on an axis: 0.05, 2, 300, 10k, 2.5M."""
    if value == 0:
        return "0"
    size = abs(value)
    for least, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= least:
            return f"{value / (1e3 if letter == 'k' else least):.4g}{letter}"
    return f"{value:.3g}" if size < 1e3 else f"{value:.0f}"


def percent_of(value: float, _position: object = None) -> str:
    """A share on an axis: 0.995 is 99.5 %."""
    return f"{100 * value:.5g} %"


def linear(ax: Axes, axis: str, *, ticks: int = 5, formatter: Callable[[float, object], str] = figure_of) -> None:
    """An even axis with few round numbers."""
    place(ax, axis, MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]), formatter)


def shares(ax: Axes) -> None:
    """A y axis of shares, from nought to one."""
    ax.set_ylim(0, 1.06)
    linear(ax, "y", formatter=percent_of)


def logarithmic(ax: Axes, axis: str, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers: 1 2 5 over a short range, powers of ten over a long one."""
    ax.set(**{f"{axis}scale": "log", f"{axis}lim": (low, high)})
    place(ax, axis, LogLocator(subs=(1, 2, 5) if high / low <= 160 else (1,)), figure_of)


def at_values(ax: Axes, values: Sequence[float], *, log: bool, formatter: Callable[[float, object], str]) -> None:
    """An x axis with its numbers where something was measured, as far as they have room."""
    if log:
        ax.set_xscale("log")
    places = [math.log(value) if log else value for value in values]
    room = (places[-1] - places[0]) * (0.15 if formatter is percent_of else 0.11)
    shown: list[int] = []
    for i in range(len(values) - 1, -1, -1):
        # From the right: the largest value is the one a reader looks for.
        if not shown or places[shown[-1]] - places[i] >= room:
            shown.append(i)
    place(ax, "x", FixedLocator([values[i] for i in reversed(shown)]), formatter)


def place(ax: Axes, axis: str, locator: Locator, formatter: Callable[[float, object], str]) -> None:
    """Numbers on an axis: where they stand, and how they are written."""
    part = getattr(ax, f"{axis}axis")
    part.set_major_locator(locator)
    part.set_minor_locator(NullLocator())
    part.set_major_formatter(FuncFormatter(formatter))


def curve(ax: Axes, xs: Any, ys: Any, style: Style, *, dots: bool = False, low: Any = None, high: Any = None) -> None:
    """One line, with a band from the least to the most of the seeds; infinite values are marks at the upper edge."""
    ys = np.asarray(ys, float)
    never = np.isinf(ys)
    if never.any():
        beyond(ax, np.asarray(xs)[never], np.ones(never.sum()), "^", style.colour, ax.get_xaxis_transform())
        ys = np.where(never, np.nan, ys)
    if low is not None and high is not None and np.any(np.asarray(high) > np.asarray(low)):
        top = np.where(np.isinf(high), np.nan, high)
        ax.fill_between(xs, low, top, color=style.colour, alpha=0.16, linewidth=0)
    (line,) = ax.plot(xs, ys, color=style.colour, linewidth=1.2 if style.reference else 1.7)
    if style.dash:
        line.set_dashes(style.dash)
    if dots and style.marker:
        ax.plot(xs, ys, linestyle="", marker=style.marker, markersize=4.5, color=style.colour, markeredgewidth=0)


def seeds(ax: Axes, xs: Any, rows: Any, style: Style) -> None:
    """The mean of the seeds' courses, a row each, with the band that they fill."""
    rows = np.vstack(rows)
    curve(ax, xs, rows.mean(axis=0), style, low=rows.min(axis=0), high=rows.max(axis=0))


def legend(styles: Mapping[str, Style]) -> tuple[Legend, ...]:
    """Lines by their names; a single one without a name needs no legend."""
    return tuple(Legend(words, style) for words, style in styles.items()) if any(styles) else ()


def beyond(ax: Axes, xs: Any, ys: Any, marker: str, colour: str, transform: Any) -> None:
    """Marks at the edge of the axes for values that were not reached."""
    ax.plot(xs, ys, linestyle="", marker=marker, markersize=6, color=colour, transform=transform, clip_on=False)


def level(ax: Axes, y: float, words: str, *, right: bool) -> None:
    """A bound: a dashed line across with its words at one of its ends."""
    ax.axhline(y, color=INK, linewidth=0.9, dashes=(4, 3), linestyle="--")
    inside = ax.get_yaxis_transform()
    end, side = (0.995, "right") if right else (0.005, "left")
    ax.text(end, y, plain(words), transform=inside, ha=side, va="bottom", color=INK, fontsize=FONT - 1)


def finish(figure: Figure, key: str, alt: str, title: str = "") -> Panel:
    """The drawing as inline SVG."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context({**OPTIONS, "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    return Panel(inline(buffer.getvalue(), key, alt), title)


def inline(svg: str, key: str, alt: str) -> str:
    """An SVG file made a part of a page: no prologue, no fixed size, own ids, colours by variable."""
    svg = svg[svg.index("<svg") :].strip()
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', body))
    names = {name for pair in used for name in pair if name}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in names else "", body)
    body = re.sub(r"url\(#", f"url(#{key}-", body).replace('href="#', f'href="#{key}-')
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"(\d+\.\d\d)\d+", r"\1", body)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{html.escape(alt)}">{body}'
