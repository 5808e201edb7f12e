"""From TOML to scenarios: layers, sweeps, overrides, and what is said about every kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.settings import PROFILES
from simulations.experiment import loading
from simulations.experiment.loading import find, label, load, shipped, value_at
from simulations.experiment.overrides import Overrides, ScenarioError, merge, put
from simulations.scenario import Scenario

TRACE = "arrival_s,input_tokens,output_tokens\n1,100,10\n"


def written(folder: Path, text: str, name: str = "x.toml", head: str = 'name = "x"\n') -> Path:
    path = folder / name
    path.write_text(head + text, encoding="utf-8")
    return path


def refusal(path: Path, overrides: Overrides | None = None) -> str:
    with pytest.raises(ScenarioError) as refused:
        load(path, overrides)
    return str(refused.value)


# --- layers ----------------------------------------------------------------------------------------------------------


def test_a_file_extends_another_tables_merge_and_lists_replace(tmp_path: Path) -> None:
    written(tmp_path, 'about = "lowest"\n[topology]\nnodes = 7\nloss = 0.1\n', "lowest.toml", "")
    written(
        tmp_path,
        'extends = "lowest.toml"\n[topology]\nnodes = 8\n[[hardware]]\ngpu = "T4"\n[[hardware]]\ngpu = "A10"\n',
        "base.toml",
        "",
    )
    scenario = load(written(tmp_path, 'extends = "base.toml"\n[[hardware]]\ngpu = "RTX 3090"\n')).scenario
    assert (scenario.about, scenario.topology.nodes, scenario.topology.loss) == ("lowest", 8, 0.1)
    assert [machine.gpu for machine in scenario.hardware] == ["RTX 3090"]


def test_merge_changes_neither_side() -> None:
    below, above = {"a": {"x": [1]}}, {"a": {"y": [2]}}
    both = merge(below, above)
    put(both, "a.x.0", 5)
    put(both, "a.y.0", 6)
    assert (both, below, above) == ({"a": {"x": [5], "y": [6]}}, {"a": {"x": [1]}}, {"a": {"y": [2]}})


def test_extends_in_a_circle_is_told(tmp_path: Path) -> None:
    written(tmp_path, 'extends = "x.toml"\n', "y.toml", "")
    said = refusal(written(tmp_path, 'extends = "y.toml"\n', head=""))
    assert said.endswith("x.toml: extends goes in a circle: x.toml extends y.toml extends x.toml")


def test_extends_of_nothing_is_told(tmp_path: Path) -> None:
    assert "extends = 'no.toml' is wrong: there is no file" in refusal(written(tmp_path, 'extends = "no.toml"\n'))
    said = refusal(written(tmp_path, 'extends = "no.toml"\n'))
    assert "made to be extended are base-attacks, base-network, base-routing, base" in said
    assert "it must be the name of one TOML file" in refusal(written(tmp_path, "extends = [1]\n"))


def test_shipped_scenarios_can_be_extended_from_anywhere(tmp_path: Path) -> None:
    for name in ("base", "base.toml"):
        loaded = load(written(tmp_path, f'extends = "{name}"\n[topology]\nnodes = 7\n', "mine.toml", ""))
        assert loaded.name == "mine"
        assert loaded.scenario.topology.nodes == 7
        assert len(loaded.scenario.hardware) == 6
    written(tmp_path, "duration_s = 77\n", "base.toml")
    assert load(written(tmp_path, 'extends = "base.toml"\n')).scenario.duration_s == 77  # the one beside it comes first


def test_node_starts_from_the_profile(tmp_path: Path) -> None:
    path = written(tmp_path, 'profile = "lan"\n[node.gossip]\nload_period_s = 3.0\n')
    node = load(path).scenario.node
    assert node.gossip.load_period_s == 3.0
    assert node.gossip.tick_s == PROFILES["lan"].gossip.tick_s != PROFILES["wan"].gossip.tick_s
    assert node.liveness == PROFILES["lan"].liveness


def test_a_trace_is_looked_for_beside_its_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(TRACE)
    path = written(tmp_path, '[workload]\nkind = "trace"\ntrace = "mine.csv"\n')
    assert load(path).scenario.workload.trace == str(tmp_path / "mine.csv")


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_sweep_is_every_combination_in_order(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[[faults]]\nkind = "crash"\n[sweep]\n"topology.nodes" = [5, 6]\n"faults.0.share" = [0, 0.5]\n',
    )
    points = load(path).points
    assert [point for point, _ in points] == [
        {"topology.nodes": 5, "faults.0.share": 0},
        {"topology.nodes": 5, "faults.0.share": 0.5},
        {"topology.nodes": 6, "faults.0.share": 0},
        {"topology.nodes": 6, "faults.0.share": 0.5},
    ]
    assert [(each.topology.nodes, each.faults[0].share) for _, each in points] == [(5, 0), (5, 0.5), (6, 0), (6, 0.5)]


def test_hardware_profile_and_settings_can_be_swept(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[sweep]\nhardware = [[{gpu = "T4"}], [{gpu = "A10", share = 2}, {gpu = "L4"}]]\nprofile = ["wan", "lan"]\n'
        '"node.gossip.load_period_s" = [1, 60]\n',
    )
    points = load(path).points
    assert len(points) == 8
    point, scenario = points[-1]
    assert label(point) == "hardware=A10+L4, profile=lan, node.gossip.load_period_s=60"
    assert [machine.gpu for machine in scenario.hardware] == ["A10", "L4"]
    assert (scenario.node.gossip.load_period_s, scenario.node.gossip.tick_s) == (60, PROFILES["lan"].gossip.tick_s)


def test_what_is_wrong_without_the_sweep_may_be_right_with_it(tmp_path: Path) -> None:
    """As a trace that is swept."""
    text = '[workload]\nkind = "trace"\n[sweep]\n"workload.trace" = ["azure-code", "azure-conv"]\n'
    points = load(written(tmp_path, text)).points
    assert [scenario.workload.trace for _, scenario in points] == ["azure-code", "azure-conv"]


def test_without_a_sweep_there_is_one_point(tmp_path: Path) -> None:
    assert [point for point, _ in load(written(tmp_path, "")).points] == [{}]


# --- overrides -------------------------------------------------------------------------------------------------------

SWEPT = '[sweep]\n"routing.policy" = ["random", "omniscient"]\n"topology.nodes" = [5, 6]\n'


def test_set_overrides_and_ends_the_sweep_of_its_key(tmp_path: Path) -> None:
    given = Overrides(("topology.nodes=9", "routing.policy=least-loaded", "duration_s=40"), seeds=(4, 5))
    loaded = load(written(tmp_path, SWEPT), given)
    ((point, scenario),) = loaded.points
    assert point == {}
    assert (scenario.topology.nodes, scenario.routing.policy, scenario.seeds) == (9, "least-loaded", (4, 5))
    assert given.words() == [word for text in given.settings for word in ("--set", text)]


def test_set_can_sweep(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, SWEPT), Overrides(("sweep.topology.nodes=[7]", "sweep.topology.loss=[0, 0.1]")))
    assert loaded.scenario.sweep["topology.nodes"] == [7]
    assert len(loaded.points) == 4


def test_a_policy_file_replaces_the_swept_policy_but_not_the_ceiling(tmp_path: Path) -> None:
    mine = written(tmp_path, '[routing]\npolicy = "least-loaded"\n[node.gossip]\nload_period_s = 9\n', "mine.toml", "")
    loaded = load(written(tmp_path, SWEPT), Overrides(policy=mine))
    assert loaded.scenario.sweep["routing.policy"] == ["least-loaded", "omniscient"]
    assert {scenario.node.gossip.load_period_s for _, scenario in loaded.points} == {9}


def test_the_daemons_own_configuration_is_a_policy_file(tmp_path: Path) -> None:
    mine = written(
        tmp_path, 'version = 1\n[node]\npolicy = "gputorrent"\nprofile = "lan"\nname = "ada"\n', "config.toml", ""
    )
    scenario = load(written(tmp_path, ""), Overrides(policy=mine)).scenario
    assert (scenario.routing.policy, scenario.profile) == ("gputorrent", "lan")


def test_a_policy_file_may_not_have_more(tmp_path: Path) -> None:
    mine = written(tmp_path, "[topology]\nnodes = 3\n", "mine.toml", "")
    said = refusal(written(tmp_path, ""), Overrides(policy=mine))
    assert said == (
        f"--policy {mine}: topology has no place here; it may have routing, node, profile, "
        "or be the daemon's config.toml"
    )


def test_a_trace_replaces_the_workload(tmp_path: Path) -> None:
    trace = written(tmp_path, TRACE, "mine.csv", "")
    swept = '[sweep]\n"workload.kind" = ["poisson", "bursty"]\n'
    loaded = load(written(tmp_path, swept), Overrides(trace=trace))
    assert loaded.scenario.workload.kind == "trace"
    assert loaded.scenario.workload.trace == str(trace)
    assert len(loaded.points) == 1
    assert "there is no such file" in refusal(written(tmp_path, ""), Overrides(trace=tmp_path / "no.csv"))


def test_a_wrong_trace_is_told_before_the_first_run(tmp_path: Path) -> None:
    path, trace = written(tmp_path, ""), written(tmp_path, TRACE + "5,100,many\n", "mine.csv", "")
    said = refusal(path, Overrides(trace=trace))
    assert said.startswith(f"--trace {trace}: workload.trace cannot be replayed: ")
    assert said.endswith("mine.csv:3: output_tokens is 'many': Expected `int`, got `str`")
    written(tmp_path, "arrival_s,input_tokens,output_tokens,model\n1,9,9,gpt-9\n", "other.csv", "")
    said = refusal(path, Overrides(trace=tmp_path / "other.csv"))
    assert "model 'gpt-9' is not in the catalogue of the scenario" in said


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[topology]\nnodez = 3\n",
            "topology.nodez is no key of [topology] (did you mean nodes?); it has nodes, seeds,",
        ),
        ("[topologie]\nnodes = 3\n", "topologie is no key of a scenario (did you mean topology?); it has name, about,"),
        ("[topology]\nnodes = 0\n", "topology.nodes = 0 is wrong: it must be a whole number >= 1"),
        ("[topology]\nnodes = 2.5\n", "topology.nodes = 2.5 is wrong: it must be a whole number >= 1"),
        ("[topology]\nnodes = true\n", "topology.nodes = true is wrong: it must be a whole number >= 1"),
        ("[topology]\nloss = 1.5\n", "topology.loss = 1.5 is wrong: it must be a number >= 0 and < 1"),
        ("[topology]\nloss = nan\n", "topology.loss = 'nan' is wrong: it must be a number >= 0 and < 1"),
        ("duration_s = inf\n", "duration_s = 'inf' is wrong: it must be a number > 0"),
        ('duration_s = "2m"\n', "duration_s = '2m' is wrong: it must be a number > 0"),
        ("[topology]\nsettled = 1\n", "topology.settled = 1 is wrong: it must be true or false"),
        ("about = 3\n", "about = 3 is wrong: it must be text in quotes"),
        ("topology = 3\n", "topology = 3 is wrong: it must be a table with nodes, seeds,"),
        ("seeds = []\n", "seeds = [] is wrong: it must be a list of at least 1"),
        ("hardware = 3\n", "hardware = 3 is wrong: it must be a list of at least 1 with gpu, share, count, slots"),
        ("[[hardware]]\nslots = 2\n", "hardware.0.gpu is missing"),
        (
            '[workload]\nutilisation = "high"\n',
            "workload.utilisation = 'high' is wrong: it must be a number >= 0",
        ),
        ('profile = "Lan"\n', "(did you mean lan?)"),
        (
            "[node.gossip]\ntick = 1\n",
            "node.gossip.tick is no key of [node.gossip] (did you mean tick_s?); it has tick_s,",
        ),
        ("[node.gossip]\ntick_s = 0\n", "node.gossip.tick_s = 0 is wrong: it must be a number of at least 0.01"),
        ("[node.gossip]\nskew_s = -1\n", "node.gossip.skew_s = -1 is wrong: it must be a number of at least 0"),
        (
            '[routing]\npolicy = "randm"\n',
            "routing.policy = 'randm' is wrong: it must be one of expected-seconds, neuralgrid,",
        ),
        ('[routing]\npolicy = "randm"\n', "(did you mean random?)"),
        (
            '[[hardware]]\ngpu = "rtx 4091"\n',
            "hardware.0.gpu = 'rtx 4091' is not in the table of GPUs (did you mean RTX 4090?)",
        ),
        ('[workload]\nkind = "trace"\n', "workload.trace is missing; the traces are azure-code, azure-conv,"),
        (
            '[workload]\nkind = "trace"\ntrace = "azure-cod"\n',
            "is neither a trace nor a file (did you mean azure-code?)",
        ),
        ("warmup_s = 500\n", "warmup_s = 500 leaves nothing of the 120 s of duration_s"),
        ('[[faults]]\nkind = "crash"\nat_s = 200\n', "faults.0.at_s = 200 is after the end: duration_s is 120"),
        (
            '[[faults]]\nkind = "crsh"\n',
            "faults.0.kind = 'crsh' is wrong: it must be one of bandwidth_cap, clock_jump, crash,",
        ),
        ("sweep = 3\n", "sweep is wrong: it must be a table"),
        (
            '[sweep]\n"topology.nodez" = [1]\n',
            "at topology.nodez=1: topology.nodez is no key of [topology] (did you mean nodes?)",
        ),
        ('[sweep]\n"topology.nodes" = 5\n', 'sweep "topology.nodes" = 5 is wrong: it must be a list of values'),
        (
            '[sweep]\n"topology.nodes" = [5, "six"]\n',
            "at topology.nodes=six: topology.nodes = 'six' is wrong: it must be a whole number",
        ),
        (
            "[sweep]\ntopology.nodes = [5]\n",
            'sweep topology: dotted keys stand in quotes here: "topology.nodes" = [...]',
        ),
        ('[sweep]\n"faults.0.share" = [0.1]\n', "sweep faults.0.share cannot be set: the scenario has no list faults"),
        (
            '[sweep]\n"topology.nodes.x" = [5]\n',
            "at topology.nodes.x=5: topology.nodes = {'x': 5} is wrong: it must be a whole number",
        ),
        (
            '[sweep]\n"routing.policy" = ["random", "best"]\n',
            "at routing.policy=best: routing.policy = 'best' is wrong",
        ),
        ("goals = 3\n", "goals is wrong: it must be a table"),
        ("[goals]\nttft_s.p99 = 3\n", 'goals ttft_s: dotted names stand in quotes here: "ttft_s.p99"'),
        ('[goals]\nsuccess = ">= 1"\n', 'goals "success" there is no metric success (did you mean success_rate?)'),
        ('[goals]\n"topology.nodez=5: success_rate" = ">= 1"\n', "nodez is no key of [topology] (did you mean nodes?)"),
        (
            '[sweep]\n"topology.nodes" = [5, 6]\n[goals]\n"topology.nodes=7: success_rate" = ">= 1"\n',
            'goals "topology.nodes=7: success_rate" is about no point of the sweep: topology.nodes is 5, 6',
        ),
    ],
)
def test_a_mistake_is_named_with_file_key_and_what_may_be(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    said = refusal(path)
    assert said.startswith(f"{path}: ")
    assert says in said


def test_a_mistake_is_shown_in_the_file_that_has_it(tmp_path: Path) -> None:
    base = written(tmp_path, "[topology]\nloss = 3\n[workload]\nrate = 5\n", "base.toml", "")
    path = written(tmp_path, 'extends = "base.toml"\n[topology]\nnodes = 0\n')
    lines = refusal(path).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(base), str(path), str(base)]
    assert (
        refusal(path, Overrides(("topology.loss=0", "workload.rate=1")))
        .splitlines()[-1]
        .startswith("--set workload.rate=1: ")
    )


def test_a_wrong_value_of_a_sweep_is_shown_in_the_file_that_sweeps(tmp_path: Path) -> None:
    base = written(tmp_path, "[topology]\nnodes = 5\n", "base.toml", "")
    path = written(tmp_path, 'extends = "base.toml"\n[sweep]\n"topology.nodes" = [6, 0]\n')
    assert refusal(path).startswith(f"{path}: at topology.nodes=0: topology.nodes = 0 is wrong")
    said = refusal(base, Overrides(("name='x'", "sweep.topology.nodes=[6, 0]")))
    assert said.startswith("--set sweep.topology.nodes=[6, 0]: at topology.nodes=0: topology.nodes = 0 is wrong")


def test_a_goal_about_an_unknown_key_is_told_whatever_is_overridden(tmp_path: Path) -> None:
    path = written(tmp_path, '[goals]\n"topology.nodez=5: success_rate" = ">= 1"\n"topology.nodes=5: jain" = ">= 0"\n')
    (said,) = refusal(path, Overrides(("topology.nodes=6",))).splitlines()
    assert "nodez is no key of [topology] (did you mean nodes?)" in said


def test_what_is_missing_is_missing_from_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "", head="")
    assert refusal(path) == f"{path}: name is missing"


def test_many_mistakes_are_not_all_told(tmp_path: Path) -> None:
    lines = refusal(written(tmp_path, "".join(f"wrong{number} = 1\n" for number in range(20)))).splitlines()
    assert len(lines) == 9
    assert lines[-1] == "and 12 more"


def test_files_that_are_no_toml(tmp_path: Path) -> None:
    assert "x.toml is not TOML: " in refusal(written(tmp_path, "[[["))
    assert "no.toml cannot be read: No such file" in refusal(tmp_path / "no.toml")


def test_set_without_a_value(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    assert "--set topology.nodes: write KEY=VALUE" in refusal(path, Overrides(("topology.nodes",)))
    assert "--set name.x=1: name.x cannot be set: name is no table" in refusal(path, Overrides(("name.x=1",)))


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for stem in ("e10-models", "e2-bytes", "e1-spreading", "e1-loss", "quick-routing"):
        written(tmp_path, f'about = "about {stem}"\n', f"{stem}.toml", f'name = "{stem}"\n')
    written(tmp_path, "[topology]\nnodes = 5\n", "base.toml")
    monkeypatch.setattr(loading, "SHIPPED", tmp_path)
    return tmp_path


def test_shipped_scenarios_are_found_by_number(shelf: Path) -> None:
    stems = ["e1-loss", "e1-spreading", "e2-bytes", "e10-models", "quick-routing"]
    assert [path.stem for path in shipped()] == stems
    assert [path.stem for path in find("E1")] == ["e1-loss", "e1-spreading"]
    assert [path.stem for path in find("e1-loss")] == ["e1-loss"]
    assert [path.stem for path in find("e1-loss.toml")] == ["e1-loss"]
    assert [path.stem for path in find("all")] == stems
    assert find(str(shelf / "base.toml")) == [shelf / "base.toml"]


@pytest.mark.usefixtures("shelf")
def test_a_name_that_is_not_shipped() -> None:
    with pytest.raises(ScenarioError, match=r"e2-byte is neither .* scenario \(did you mean e2-bytes\?\); shipped are"):
        find("e2-byte")
    with pytest.raises(ScenarioError, match=r"e2-byte.toml is neither .* scenario \(did you mean e2-bytes\?\)"):
        find("e2-byte.toml")


def test_a_folder_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="is a folder: name the files in it"):
        find(str(tmp_path))


@pytest.mark.slow
def test_every_shipped_scenario_can_be_read() -> None:
    for path in shipped():
        assert load(path).points, path


def test_value_at_walks_lists() -> None:
    assert value_at(Scenario(name="x"), "hardware.0.gpu") == "rtx 4090"
    assert value_at(Scenario(name="x"), "faults.0.kind") is None
