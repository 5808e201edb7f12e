"""The page itself: words, tables and pictures as one HTML file that needs nothing else.

Every text from outside (names, points, commands) is escaped here and nowhere else.  No script: what can be folded is a
``<details>``, what is to be copied is selected by one click.  Not here: the pictures (``pictures``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from simulations.report.metrics import HEADLINE, LEAST_SEEDS, Metric, known, text, text_of_seeds
from simulations.report.points import Results, Spread, is_number, key_title, metric_of, short

if TYPE_CHECKING:
    from simulations.report.svg_theme import Legend, Picture

#: Rows of a table that are shown at once; the rest is folded.
MOST_ROWS: Final = 30
#: Digits of a digest or commit that are enough to tell it.
DIGEST: Final = 16

PICTURES_MISSING: Final = "Without pictures: matplotlib is not installed (pip install 'p2pnode[sim]')."


def html(results: Results, timing: dict[str, Any], drawn: Sequence[Picture] | None) -> str:
    """The whole page; ``drawn`` is None where there is nothing to draw with."""
    content = results.content
    name = str(content.get("name", "simulation"))
    style = resources.files("simulations.report").joinpath("style.css").read_text(encoding="utf-8")
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(name)} · simulation</title>",
        f"<style>{style}</style></head><body><header>",
        f"<h1>{escape(name)}</h1>",
        f'<p class="about">{escape(str(content.get("about", "")))}</p>' if content.get("about") else "",
        "</header><main>",
        *banners(results),
        facts(results, timing),
        goals(results),
        summary(results),
        f'<div class="banner partial">{escape(PICTURES_MISSING)}</div>' if drawn is None else gallery(drawn),
        runs(results, timing),
        scenario(results),
        "</main><footer>Times are virtual unless they are said to be of the processor.</footer></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def banners(results: Results) -> Iterable[str]:
    """The verdict, and before it what makes it worth less."""
    content = results.content
    if content.get("partial") or any(run.get("partial") for run in results.runs):
        cut = sum(bool(run.get("partial")) for run in results.runs)
        unfinished = f", {cut} of them unfinished" if cut else ""
        yield (
            '<div class="banner partial">PARTIAL: this simulation was stopped before its end.'
            f"<p>{len(results.runs)} runs are in it{unfinished}. No figure below is final.</p></div>"
        )
    for warning in content.get("warnings") or ():
        yield f'<div class="banner partial">{escape(str(warning))}</div>'
    for run in results.runs:
        breach, error = run.get("breach"), run.get("error")
        if breach:
            what = (
                f"Invariant {breach.get('invariant')} broken at {short(breach.get('at_s'))} s, seed {run.get('seed')}"
            )
            yield trouble(what, run, breach)
        if error:
            yield trouble(f"A run crashed, seed {run.get('seed')}", run, error)
    yield verdict(results)


def trouble(title: str, run: dict[str, Any], found: dict[str, Any]) -> str:
    """What went wrong in a run, and the command that leads there again."""
    where = words_of(run.get("point") or {})
    what = " · ".join(word for word in (where, str(found.get("what", ""))) if word)
    repeat = f'<pre class="copy">{escape(str(found["repeat"]))}</pre>' if found.get("repeat") else ""
    return f'<div class="banner bad">{escape(title)}<p>{escape(what)}</p>{repeat}</div>'


def verdict(results: Results) -> str:
    """One line: did it do what it had to."""
    total, passed = len(results.goals), sum(bool(goal.get("passed")) for goal in results.goals)
    broken = sum(bool(run.get("breach") or run.get("error")) for run in results.runs)
    if not results.runs:
        return '<div class="banner bad">✗ No run was made.</div>'
    if broken:
        judged = f"; {passed} of {total} goals passed" if total else ""
        return f'<div class="banner bad">✗ {broken} of {len(results.runs)} runs broke down{judged}.</div>'
    if not total:
        return '<div class="banner">No goals: this scenario measures only.</div>'
    if passed < total:
        return f'<div class="banner bad">✗ {total - passed} of {total} goals failed.</div>'
    return f'<div class="banner good">✓ {"The goal" if total == 1 else f"All {total} goals"} passed.</div>'


def facts(results: Results, timing: dict[str, Any]) -> str:
    """What was run, in one line of small print."""
    content = results.content
    seeds = list(dict.fromkeys(str(run.get("seed")) for run in results.runs))
    jobs = [value for run in results.runs if is_number(value := (run.get("metrics") or {}).get("jobs_submitted"))]
    virtual = sum(float(run.get("virtual_s") or 0) for run in results.runs)
    costs = timings(timing)
    cpu = sum(float(one.get("cpu_s") or 0) for one in costs)
    peak = max((float(one.get("peak_mib") or 0) for one in costs), default=0.0)
    pairs = [
        ("runs", str(len(results.runs))),
        ("points", str(len(results.points))),
        ("seeds", ", ".join(seeds) if len(seeds) <= 8 else f"{len(seeds)}"),
        ("jobs", text(known("jobs_submitted"), sum(jobs)) if jobs else ""),
        ("virtual time", f"{short(virtual)} s"),
        ("speed", f"{virtual / cpu:.3g} virtual s per CPU s" if cpu else ""),
        ("memory", f"{peak:.0f} MiB at most" if peak else ""),
        ("commit", brief(str(content.get("commit") or ""))),
        ("scenario", str(content.get("scenario_hash") or "")[:DIGEST]),
    ]
    return '<div class="facts">' + "".join(f"<span>{k} <b>{escape(v)}</b></span>" for k, v in pairs if v) + "</div><br>"


def brief(commit: str) -> str:
    """A commit by its first digits, and whether files were changed."""
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")


def words_of(point: dict[str, Any]) -> str:
    """A point as ``key=value``, as the command takes it."""
    return ", ".join(f"{key}={short(value)}" for key, value in point.items())


# --- tables ----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> str:
    """Cells are HTML already; columns in ``words`` are no numbers; the very first stays in sight."""

    def cell(tag: str, i: int, content: str) -> str:
        kind = ("name pin" if i == 0 else "name") if i in words else ""
        return f'<{tag} class="{kind}">{content}</{tag}>' if kind else f"<{tag}>{content}</{tag}>"

    lines = [f"<tr>{''.join(cell('td', i, content) for i, content in enumerate(row))}</tr>" for row in rows]
    top = f"<thead><tr>{''.join(cell('th', i, content) for i, content in enumerate(head))}</tr></thead>"
    return f'<div class="scroll"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def folded(head: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> str:
    """A table whose end is folded where it is long."""
    if len(rows) <= MOST_ROWS:
        return table(head, rows, words)
    rest = (
        f"<details><summary>{len(rows) - MOST_ROWS} more rows</summary>{table(head, rows[MOST_ROWS:], words)}</details>"
    )
    return table(head, rows[:MOST_ROWS], words) + rest


def goals(results: Results) -> str:
    """What was asked and what came of it, failures first."""
    if not results.goals:
        return ""
    rows = []
    for goal in sorted(results.goals, key=lambda goal: bool(goal.get("passed"))):
        metric, value = known(metric_of(goal)), goal.get("value")
        mark = '<span class="good">✓ passed</span>' if goal.get("passed") else '<span class="bad">✗ failed</span>'
        reason = f' <span class="quiet">{escape(str(goal["reason"]))}</span>' if goal.get("reason") else ""
        measured = short(value) if is_number(value) else "not reached" if value == "inf" else "–"
        unit = f" ({text(metric, float(value))} {metric.unit})" if is_number(value) and metric.divisor != 1 else ""
        rows.append(
            [
                escape(metric_of(goal)),
                mark + reason,
                escape(measured + unit),
                escape(str(goal.get("bound", ""))),
                escape(words_of(goal.get("point") or {})) or "all",
            ]
        )
    head = ["goal", "", "value", "bound", "point"]
    return f'<section class="card"><h2>Goals</h2>{folded(head, rows, (0, 1, 4))}</section>'


def summary(results: Results) -> str:
    """The headline figures of every point over its seeds, one table for each group of metrics."""
    tables = [of_group(results, title, [known(name) for name in names]) for title, names in HEADLINE.items()]
    if not any(tables):
        return ""
    seeds = max(len(point.runs) for point in results.points)
    spread = "least – most" if seeds < LEAST_SEEDS else "± half of the 95 % interval"
    note = f'<p class="note">Means over the seeds, and below them {spread}.</p>' if seeds > 1 else ""
    return f'<section class="card"><h2>Point by point</h2>{"".join(tables)}{note}</section>'


def of_group(results: Results, title: str, metrics: Sequence[Metric]) -> str:
    """One table of the summary; empty if nothing of it was measured."""
    found = [[point.spread(metric.name) for metric in metrics] for point in results.points]
    columns = [i for i in range(len(metrics)) if any(row[i] is not None for row in found)]
    if not columns:
        return ""
    keys = results.keys or ([key for point in results.points[:1] for key in point.values])
    head = [escape(key_title(key)) for key in keys] or ["point"]
    rows = []
    for point, spreads in zip(results.points, found, strict=True):
        cells = [escape(short(point.values.get(key))) for key in keys] or ["all"]
        rows.append([*cells, *(seeds_cell(metrics[i], spreads[i]) for i in columns)])
    head += [heading(metrics[i].title, metrics[i].unit) for i in columns]
    return f"<h3>{title}</h3>{folded(head, rows, range(max(1, len(keys))))}"


def seeds_cell(metric: Metric, found: Spread | None) -> str:
    """The mean over the seeds, with how far they are apart below it."""
    if found is None:
        return "–"
    mean, apart = text_of_seeds(metric, found)
    return escape(mean) + (f"<small>{escape(apart)}</small>" if apart else "")


def heading(title: str, unit: str) -> str:
    """A column's title with its unit under it; percentages carry theirs in every cell."""
    return escape(title) + (f"<br>{escape(unit)}" if unit not in ("", "%") else "")


def timings(timing: dict[str, Any]) -> list[dict[str, Any]]:
    """What each run cost, as far as it was noted."""
    found = timing.get("runs")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def runs(results: Results, timing: dict[str, Any]) -> str:
    """Every run with its digest, its cost, and how to have it again."""
    if not results.runs:
        return ""
    costs = {(repr(one.get("point") or {}), one.get("seed")): one for one in timings(timing)}
    rows, commands = [], []
    for run in results.runs:
        cost = costs.get((repr(run.get("point") or {}), run.get("seed")), {})
        state = (
            "partial"
            if run.get("partial")
            else "breach"
            if run.get("breach")
            else "crashed"
            if run.get("error")
            else "whole"
        )
        rows.append(
            [
                escape(words_of(run.get("point") or {}) or "all"),
                escape(str(run.get("seed"))),
                f'<span class="{"quiet" if state == "whole" else "bad"}">{state}</span>',
                f"<code>{escape(str(run.get('digest') or '–')[:DIGEST])}</code>",
                amount(run.get("virtual_s")),
                amount(run.get("events")),
                amount(cost.get("cpu_s")),
                amount(cost.get("virtual_per_cpu_s")),
                amount(cost.get("events_per_cpu_s")),
                amount(cost.get("peak_mib")),
            ]
        )
        commands.append(str(cost.get("repeat") or ""))
    head = [
        "point",
        "seed",
        "",
        "digest",
        "virtual s",
        "events",
        "CPU s",
        "virtual s<br>per CPU s",
        "events<br>per CPU s",
        "MiB",
    ]
    words = escape("\n".join(filter(None, dict.fromkeys(commands))))
    again = f'<h3>To repeat a run</h3><pre class="long">{words}</pre>' if words else ""
    body = f"{table(head, rows, range(3))}{again}"
    title = "Runs, digests, cost, and how to repeat them"
    return f'<section class="card"><details><summary>{title}</summary>{body}</details></section>'


def amount(value: Any) -> str:
    """A number in a table, or a dash."""
    if not is_number(value):
        return "–"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else short(value)


def scenario(results: Results) -> str:
    """The scenario as it was run, folded."""
    whole = json.dumps(results.scenario, indent=2, ensure_ascii=False)
    digest = escape(str(results.content.get("scenario_hash") or ""))
    commit = escape(str(results.content.get("commit") or ""))
    marks = f'<p class="note">commit {commit or "unknown"}<br>scenario {digest or "unknown"}</p>'
    body = f'{marks}<pre class="long">{escape(whole)}</pre>'
    return f'<section class="card"><details><summary>The scenario as it was run</summary>{body}</details></section>'


# --- pictures --------------------------------------------------------------------------------------------------------


def gallery(drawn: Sequence[Picture]) -> str:
    """All pictures; one with many drawings takes the whole width."""
    return (
        '<div class="pictures">' + "\n".join(framed(picture, len(drawn)) for picture in drawn) + "</div>"
        if drawn
        else ""
    )


def framed(picture: Picture, of: int) -> str:
    """One picture: what it shows, how it is read, the drawings, the legend."""
    wide = " wide" if len(picture.panels) > 1 or of == 1 else ""
    panels = "".join(
        f'<div class="panel">{f"<h3>{escape(panel.title)}</h3>" if panel.title else ""}{panel.svg}</div>'
        for panel in picture.panels
    )
    legend = "".join(f"<li>{swatch(entry)}{escape(entry.label)}</li>" for entry in picture.legend)
    return (
        f'<section class="card{wide}" id="{escape(picture.key)}"><h2>{escape(picture.title)}</h2>'
        f'<p class="reading">{escape(picture.reading)}</p><div class="panels">{panels}</div>'
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + ramp(picture)
        + (f'<p class="note">{escape(picture.note)}</p>' if picture.note else "")
        + "</section>"
    )


def swatch(entry: Legend) -> str:
    """A short piece of the line, as it is drawn."""
    from simulations.report.svg_theme import VARIABLES  # noqa: PLC0415 - only where matplotlib is

    style = entry.style
    colour = f"var(--{VARIABLES[style.colour]})"
    dash = f' stroke-dasharray="{" ".join(f"{2 * x:g}" for x in style.dash)}"' if style.dash else ""
    dot = SHAPES.get(style.marker, "") if entry.dots else ""
    line = f'<path d="M1 6H29" fill="none" stroke="{colour}" stroke-width="2.2"{dash}/>'
    return f'<svg viewBox="0 0 30 12" style="fill: {colour}" aria-hidden="true">{line}{dot}</svg>'


#: The markers of a line in a legend, around (15, 6).
SHAPES: Final = {
    "o": '<circle cx="15" cy="6" r="4"/>',
    "s": '<path d="M11.5 2.5h7v7h-7z"/>',
    "^": '<path d="M15 1.5l4.5 8.5h-9z"/>',
    "D": '<path d="M15 1l5 5-5 5-5-5z"/>',
    "v": '<path d="M15 10.5l4.5-8.5h-9z"/>',
    "P": '<path d="M13.2 2h3.6v2.2H19v3.6h-2.2V10h-3.6V7.8H11V4.2h2.2z"/>',
    "X": '<path d="M12 1.5l3 2.7 3-2.7 2 2-2.5 2.5 2.5 2.5-2 2-3-2.7-3 2.7-2-2 2.5-2.5-2.5-2.5z"/>',
    "*": '<path d="M15 .8l1.5 3.6 3.9.3-3 2.5.9 3.8-3.3-2-3.3 2 .9-3.8-3-2.5 3.9-.3z"/>',
}


def ramp(picture: Picture) -> str:
    """The colours of a map, from least to most."""
    if picture.scale is None:
        return ""
    low, high, colours = picture.scale
    stops = ", ".join(colours)
    bar = f'<span class="bar" style="background: linear-gradient(to right, {stops})"></span>'
    return f'<div class="ramp">{escape(low)}{bar}{escape(high)}</div>'
