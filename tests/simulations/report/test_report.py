"""The report: whole in one file, the pictures that the runs hold and no others, the same bytes every time."""

from __future__ import annotations

import copy
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from simulations.report import page, write
from simulations.report.metrics import HEADLINE, STAGES, known, text_of_seeds
from simulations.report.pictures import pictures
from simulations.report.points import KEY_TITLES, Results, spread
from simulations.report.svg_theme import Picture
from simulations.sim.jobs import STAGES as MEASURED_STAGES

pytest.importorskip("matplotlib")
from matplotlib._pylab_helpers import Gcf  # after the skip

HOSTILE = "<script>alert('x')</script> $\\frac{ \U0001f4a9"
VOID = {"meta", "br", "path", "circle"}


def quantiles(mean: float) -> dict[str, float]:
    return {"n": 100, "mean": mean, "p50": mean, "p90": mean * 2, "p95": mean * 2.5, "p99": mean * 3, "max": mean * 4}


def run(point: dict[str, Any], seed: int = 1, **parts: Any) -> dict[str, Any]:
    empty = {"metrics": {}, "curves": {}, "series": {}, "heat": {}, "breach": None, "error": None, "partial": False}
    return {"point": point, "seed": seed, "digest": "ab" * 32, "events": 1000, "virtual_s": 60.0} | empty | parts


def document(runs: list[dict[str, Any]], goals: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    head = {"schema": 1, "name": "a-scenario", "about": "What it is about.", "scenario": {}, "scenario_hash": "cd" * 32}
    return head | {"commit": "0123456789abcdef", "partial": False, "runs": runs, "goals": goals or []} | more


def goal(metric: str, bound: str, *, passed: bool, **point: Any) -> dict[str, Any]:
    return {
        "goal": metric,
        "metric": metric,
        "bound": bound,
        "point": point,
        "value": 1.0,
        "passed": passed,
        "reason": "",
    }


def cdf(median: float) -> list[list[float]]:
    return [[median * math.exp((i - 20) / 10), (i + 1) / 41] for i in range(41)]


def rich(policies: tuple[str, ...] = ("random", "neuralgrid", "omniscient")) -> dict[str, Any]:
    """Everything that a run can have, for two sizes, some policies and two seeds."""
    t = [float(i) for i in range(1, 31)]
    series = {"t": t, "jobs_running": t, "completed_per_s": t, "failed_per_s": t, "bytes_up_per_s": t}
    series |= {"alive": t, "sides": [[1.0, 0.5]] * 30, "success": [None] + [1.0] * 29}
    heat = {"rows": ["node 0", "node 1"], "t": t, "values": [[0.5] * 30, [1.5] * 29 + [None]]}
    runs = []
    for nodes in (10, 1000):
        for policy in policies:
            for seed in (1, 2):
                spreading = {f"coverage_t{share}_s": math.log(nodes) * seed for share in (50, 99, 100)}
                metrics = {
                    "jobs_submitted": 100 * nodes,
                    "success_rate": 0.999,
                    "ttft_s": quantiles(0.2 * seed),
                } | spreading
                metrics |= {"gossip_bytes_per_s": quantiles(1500.0), "load_age_s": quantiles(9.0), "heal_s": 4.0}
                metrics |= {"dht_hops": quantiles(2.0), "dht_s": quantiles(0.3)}
                curves = {"coverage": cdf(2.0), "ttft_cdf": cdf(0.2 * seed), "load_age_cdf": cdf(8.0)}
                point = {"topology.nodes": nodes, "routing.policy": policy}
                runs.append(run(point, seed, metrics=metrics, curves=curves, series=series, heat=heat))
    goals = [goal("heal_s", "<= 5", passed=True), goal("ttft_s.p99", "< 0.5", passed=False)]
    return document(runs, goals, scenario={"faults": [{"kind": "partition", "at_s": 10.0, "for_s": 5.0}]})


def swept(key: str, values: list[Any], *metrics: str) -> dict[str, Any]:
    return document([run({key: value}, metrics=dict.fromkeys(metrics, 0.9 - i / 50)) for i, value in enumerate(values)])


@pytest.fixture(scope="module")
def drawn() -> list[Picture]:
    return pictures(Results(rich()))


def keys(content: dict[str, Any]) -> list[str]:
    return [picture.key for picture in pictures(Results(content))]


def written(tmp_path: Path, content: dict[str, Any], timing: dict[str, Any] | None = None) -> str:
    path = tmp_path / "report.html"
    write(content, timing or {}, path)
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Checks that elements are closed in order and gathers ids, references and everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.look(attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.look(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def look(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")


def tags(html: str) -> Tags:
    found = Tags()
    found.feed(html)
    assert found.open == []
    return found


@pytest.mark.slow
def test_the_page_is_whole_in_one_file(drawn: list[Picture]) -> None:
    html = page.html(Results(rich()), {}, drawn)
    found = tags(html)
    assert "http://" not in html
    assert "https://" not in html
    assert "<script" not in html
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(found.ids) == len(set(found.ids)), "an id names one element, also across drawings"
    for link in found.links:
        assert link.startswith("data:image/png") or link.removeprefix("#") in found.ids
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(found.ids)
    assert 'name="viewport"' in html
    assert len(html) < 2_000_000


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    content = rich(("random",))
    content["runs"] = content["runs"][:2]
    before = copy.deepcopy(content)
    assert written(tmp_path, content) == written(tmp_path, content)
    assert content == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert not Gcf.figs, "no figure is left anywhere"


@pytest.mark.slow
def test_there_is_a_picture_of_everything_that_was_measured(drawn: list[Picture]) -> None:
    assert [picture.key for picture in drawn] == [
        "coverage",
        "ttft",
        "load-age",
        "spread-nodes",
        "bytes-nodes",
        "age-nodes",
        "dht",
        "heat",
        "partition",
        "goals-topology-nodes",
        "time",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (document([]), []),
        (document([run({})]), []),
        (document([run({}, metrics={"success_rate": 1.0})]), []),
        (swept("workload.utilisation", [0.2, 0.9], "goodput_per_s"), ["load"]),
        (swept("workload.rate_per_s", [1, 100], "success_rate"), ["load"]),
        (swept("churn.mean_session_s", [60, 600, 3600], "success_rate"), ["churn"]),
        (swept("attacks.0.share", [0.0, 0.5], "success_rate", "bad_job_share"), ["bad-peers"]),
        (swept("routing.policy", ["random", "neuralgrid"], "success_rate"), ["points"]),
        (swept("node.gossip.load_period_s", [1, 60], "load_age_s"), []),
    ],
)
def test_there_are_the_pictures_that_have_something_to_show(content: dict[str, Any], expected: list[str]) -> None:
    assert keys(content) == expected


def test_a_goal_over_a_swept_number_without_a_picture_gets_a_plain_one() -> None:
    content = swept("models.zipf", [0.6, 1.2], "cold_starts", "jain")
    content["goals"] = [goal("cold_starts", "<= 0.5", passed=False)]
    (picture,) = pictures(Results(content))
    assert picture.key == "goals-models-zipf"
    assert ">goal<" in picture.panels[0].svg


def test_what_one_seed_lacks_is_taken_from_the_others() -> None:
    content = swept("topology.nodes", [10, 100], "coverage_t99_s")
    content["runs"].append(run({"topology.nodes": 100}, 2, metrics={"coverage_t99_s": None}))
    assert [
        len(line.xs) for line in Results(content).lines(Results(content).points, "topology.nodes", "coverage_t99_s")
    ] == [2]
    assert keys(content) == ["spread-nodes"]


def test_what_one_seed_did_not_reach_is_not_reached(tmp_path: Path) -> None:
    content = swept("topology.nodes", [10, 100], "coverage_t99_s")
    content["runs"].append(run({"topology.nodes": 100}, 2, metrics={"coverage_t99_s": "inf"}))
    content["goals"] = [goal("coverage_t99_s", "<= 5", passed=False) | {"value": "inf"}]
    (line,) = Results(content).lines(Results(content).points, "topology.nodes", "coverage_t99_s")
    assert line.ys[1].mean == line.ys[1].high == math.inf > line.ys[1].low
    html = written(tmp_path, content)
    assert "<td>not reached</td>" in html
    assert html.count("not reached") >= 3, "in the table of the points, in that of the goals, and under the picture"
    content["runs"][0]["metrics"]["coverage_t99_s"] = "inf"
    assert "A triangle at the edge" in written(tmp_path, content), "and with nothing else to draw"


def test_a_row_that_was_not_reached_is_marked_at_the_edge() -> None:
    runs = [
        run({"routing.policy": policy}, metrics={"ttft_s": {"p99": p99}}) for policy, p99 in (("a", 1), ("b", "inf"))
    ]
    (picture,) = pictures(Results(document(runs)))
    assert picture.note == "A triangle at the edge: not reached, with one seed at least."


@pytest.mark.slow
def test_lines_are_split_over_drawings_when_there_are_many() -> None:
    runs = []
    for kind in ("liar", "forger", "flooder", "sybil"):
        for policy in ("a", "b", "c", "d"):
            for share in (0.0, 0.3):
                point = {"attacks.0.kind": kind, "routing.policy": policy, "attacks.0.share": share}
                runs.append(run(point, metrics={"success_rate": 1 - share / 9}))
    (picture,) = pictures(Results(document(runs)))
    assert [panel.title for panel in picture.panels] == ["liar", "forger", "flooder", "sybil"]
    assert [entry.label for entry in picture.legend] == ["a", "b", "c", "d"], "policies stay together"


@pytest.mark.slow
def test_a_policy_looks_the_same_in_every_picture_and_the_ceiling_is_no_competitor(drawn: list[Picture]) -> None:
    looks: dict[str, set[Any]] = {}
    for picture in drawn:
        for entry in picture.legend:
            if entry.label in ("random", "neuralgrid", "omniscient"):
                looks.setdefault(entry.label, set()).add(entry.style)
    assert [len(looks[name]) for name in ("random", "neuralgrid", "omniscient")] == [1, 1, 1]
    assert next(iter(looks["omniscient"])).reference


def test_a_broken_off_simulation_says_so_first(tmp_path: Path) -> None:
    content = document([run({}, partial=True)], [goal("heal_s", "<= 5", passed=True)], partial=True)
    html = written(tmp_path, content)
    assert html.index("PARTIAL") < html.index("passed")
    assert "PARTIAL" not in written(tmp_path, document([run({})]))


def test_a_breach_is_told_with_the_command_that_repeats_it(tmp_path: Path) -> None:
    breach = {
        "invariant": "I5",
        "at_s": 73.125,
        "what": "17 jobs in 16 places",
        "repeat": "p2pnode sim run 'a b' --seed 3",
    }
    html = written(tmp_path, document([run({}, 3, breach=breach)], [goal("heal_s", "<= 5", passed=True)]))
    assert "Invariant I5 broken" in html
    assert '<pre class="copy">p2pnode sim run &#39;a b&#39; --seed 3</pre>' in html
    assert "1 of 1 runs broke down" in html
    assert 'class="banner good"' not in html


def test_a_warning_is_told_before_the_verdict(tmp_path: Path) -> None:
    html = written(tmp_path, document([run({})], warnings=["no machine can hold <x>"]))
    assert html.index("no machine can hold &lt;x&gt;") < html.index("No goals")


def test_a_crash_is_told(tmp_path: Path) -> None:
    html = written(tmp_path, document([run({}, error={"what": "KeyError: 7", "repeat": "p2pnode sim run x"})]))
    assert "KeyError: 7" in html
    assert '<pre class="copy">p2pnode sim run x</pre>' in html


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        ([True, True], "All 2 goals passed"),
        ([True], "The goal passed"),
        ([False, True], "1 of 2 goals failed"),
        ([], "No goals"),
    ],
)
def test_the_verdict_counts_the_goals(tmp_path: Path, passed: list[bool], words: str) -> None:
    html = written(tmp_path, document([run({})], [goal("heal_s", "<= 5", passed=one) for one in passed]))
    assert words in html
    assert html.count("✗ failed") == passed.count(False)


@pytest.mark.slow
def test_hostile_names_stay_words(tmp_path: Path) -> None:
    point = {"routing.policy": HOSTILE}
    breach = {"invariant": HOSTILE, "at_s": 1.0, "what": HOSTILE, "repeat": HOSTILE}
    runs = [
        run(point, metrics={"success_rate": 0.5}, breach=breach),
        run({"routing.policy": "b"}, metrics={"success_rate": 1.0}),
    ]
    content = document(runs, [goal(HOSTILE, HOSTILE, passed=False, policy=HOSTILE)], name=HOSTILE, about=HOSTILE)
    content |= {"scenario": {HOSTILE: HOSTILE}, "commit": HOSTILE, "scenario_hash": HOSTILE}
    html = written(tmp_path, content)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    tags(html)


def test_what_the_runs_cost_is_shown(tmp_path: Path) -> None:
    cost = {"point": {"topology.nodes": 10}, "seed": 1, "cpu_s": 6.0, "virtual_per_cpu_s": 10.0, "peak_mib": 213.4}
    cost["repeat"] = "p2pnode sim run mine.toml --seed 1 --policy 'my own.toml' --set topology.nodes=10"
    html = written(tmp_path, document([run({"topology.nodes": 10})]), {"runs": [cost]})
    assert "10 virtual s per CPU s" in html
    assert "213 MiB" in html
    assert "p2pnode sim run mine.toml --seed 1 --policy &#39;my own.toml&#39; --set topology.nodes=10" in html
    assert "To repeat a run" not in written(tmp_path, document([run({})])), "nobody knows how it was made"


def test_without_matplotlib_there_is_everything_else() -> None:
    content = document([run({}, metrics={"success_rate": 0.5})])
    html = page.html(Results(content), {}, None)
    assert "matplotlib is not installed" in html
    assert "50.0 %" in html


def test_seeds_are_told_with_their_interval() -> None:
    found = spread([1.0, 2.0, 3.0])
    assert found is not None
    # Student's t for two degrees of freedom, by hand: 4.303 × 1 / √3.
    assert found.ci == pytest.approx(2.4844, abs=1e-3)
    assert (found.mean, found.low, found.high) == (2.0, 1.0, 3.0)
    assert spread([]) is None


def test_the_wait_for_the_first_token_is_a_bar_of_its_stages() -> None:
    assert tuple(STAGES) == MEASURED_STAGES
    taken = {"choice": 0.1, "dial": 0.4, "way_back": 0.0}
    metrics: dict[str, Any] = {f"ttft_{stage}_s": {"mean": taken.get(stage, 0.0)} for stage in STAGES}
    metrics |= {f"ttft_{stage}_slowest_s": 2 * taken.get(stage, 0.0) for stage in STAGES}
    runs = [run({"routing.policy": policy}, metrics=metrics) for policy in ("a", "b")]
    (picture,) = (picture for picture in pictures(Results(document(runs))) if picture.key == "stages")
    assert [entry.label for entry in picture.legend] == ["choice", "dial"]
    assert [panel.title for panel in picture.panels] == ["all jobs", "the slowest 5 %"]
    assert all("var(--c0)" in panel.svg and "var(--c2)" in panel.svg for panel in picture.panels)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2.0], ("2", "")),
        ([2e-6], ("< 0.001", "")),
        ([0.0, 0.01], ("0.005", "0 – 0.01")),
        ([2.0, 2.0], ("2", "")),
        ([1.0, 2.0, 3.0, 4.0], ("2.5", "1 – 4")),
        ([1.0, 2.0, math.inf], ("not reached", "1 – not reached")),
        ([1.0, 2.0, 3.0, 4.0, 5.0], ("3", "± 2")),
        ([1.0, 2.0, 3.0, 4.0, math.inf], ("not reached", "from 1")),
    ],
)
def test_below_five_seeds_the_extremes_are_told_and_no_interval(values: list[float], words: tuple[str, str]) -> None:
    found = spread(values)
    assert found is not None
    assert text_of_seeds(known("ttft_s.p99"), found) == words


def test_the_columns_of_a_table_have_different_names(tmp_path: Path) -> None:
    html = written(tmp_path, swept("workload.utilisation", [0.2, 0.9], "utilisation", "goodput_per_s"))
    heads = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", html)
    assert {"offered load", "GPUs busy"} <= set(heads)
    titles = [known(name).title for names in HEADLINE.values() for name in names]
    assert len(set(titles)) == len(titles)
    assert not set(KEY_TITLES.values()) & set(titles)


@pytest.mark.slow
def test_maps_share_one_scale_and_are_pixels(drawn: list[Picture]) -> None:
    (heat,) = (picture for picture in drawn if picture.key == "heat")
    assert isinstance(heat, Picture)
    assert len(heat.panels) == 6
    assert all("data:image/png;base64," in panel.svg for panel in heat.panels)
    assert heat.scale is not None
    assert heat.scale[1].startswith("150 %")
