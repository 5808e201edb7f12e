"""What no type can tell of a scenario: what hangs, what never happens, what names nothing; and that ours are right."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from simulations.experiment import fuzz
from simulations.experiment.loading import load, shipped
from simulations.experiment.overrides import Overrides, ScenarioError
from simulations.experiment.validation import by_meaning
from simulations.faults.chaos import drawn, drowned
from simulations.scenario import Fault, Scenario, Topology


def written(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(f'name = "x"\n{text}', encoding="utf-8")
    return path


def refusal(path: Path, *settings: str) -> str:
    with pytest.raises(ScenarioError) as refused:
        load(path, Overrides(settings) if settings else None)
    return str(refused.value)


def fault(kind: str, more: str, before: str = "") -> str:
    return f'{before}[[faults]]\nkind = "{kind}"\n{more}\n'


#: Two attacks with half and more of the nodes each.
MANY = '[[attacks]]\nkind = "refuser"\nshare = 0.5\n[[attacks]]\nkind = "garbage"\nshare = 0.6\n'
SEEDS = "[topology]\nseeds = 2\nnodes = 3\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[[machine]]\ngpu = "RTX 4090"\ncount = 2\n[topology]\nnodes = 3\n',
            "topology.nodes = 3 has to be the number of all [[machine]]: 2",
        ),
        (
            '[[machine]]\ngpu = "RTX 4080"\n[[machine]]\ngpu = "RTX 4091"\n[topology]\nnodes = 2\n',
            "machine.1.gpu = 'RTX 4091' is not in the table of GPUs (did you mean",
        ),
        (
            "[[machine]]\n[topology]\nnodes = 1\nseeds = 1\n[models]\nwithout_engine = 0.5\n",
            "models.without_engine has no sense with [[machine]]",
        ),
        ("[[machine]]\ncount = 0\n", "machine.0.count = 0 is wrong: it must be a whole number >= 1"),
        ("[topology]\nloss = 1\n", "topology.loss = 1 is wrong: it must be a number >= 0 and < 1"),
        (fault("loss", "amount = 1.5"), "faults.0.amount makes it 1.5 of all segments that are lost at that time; it"),
        (fault("loss", "amount = 0.6", "[topology]\nloss = 0.4\n"), "faults.0.amount makes it 1 of all segments"),
        (fault("loss", "", "[topology]\nloss = 0.9\n"), "must stay below 1, topology.loss and all that overlap"),
        (
            fault("loss", "amount = 0.5") + fault("loss", "at_s = 90\namount = 0.5"),
            "faults.1.amount makes it 1 of all segments",
        ),
        (
            fault("hold", "amount = -1"),
            "faults.0.amount = -1 is wrong: for hold it must be a number of at least 0.01; 0 is what is usual",
        ),
        ("[node.gossip]\nbudget_bytes_s = 0\n", "node.gossip.budget_bytes_s = 0 is wrong: it must be a number of"),
        ("[node.cascade]\nprogress_window_s = 0\n", "it must be a number of at least 0.01"),
        ("[node.gossip]\ntick_s = 1e-9\n", "node.gossip.tick_s = 1e-09 is wrong: it must be a number of at least 0.01"),
        (
            "[node.gossip]\nload_change = -1\n",
            "node.gossip.load_change = -1 is wrong: it must be a number of at least 0",
        ),
        ("[node.dht]\nprovider_ttl_s = 7200\n", "it must be a number of at least 0.01 and at most 3600"),
        (fault("slow_cpu", "amount = -2"), "for slow_cpu it must be a number of at least 1; 0 is what is usual"),
        (fault("throttle", "amount = 1.5"), "for throttle it must be a number from 0 to 1; 0 is what is usual"),
        (fault("latency_spike", "amount = -1"), "for latency_spike it must be a number of at least 0"),
        (
            '[[attacks]]\nkind = "slow_drip"\namount = -1\n',
            "attacks.0.amount = -1 is wrong: it must be a number >= 0",
        ),
        (
            fault("crash", "at_s = 100", "quiet_s = 60\n"),
            "faults.0.at_s = 100 is in the quiet phase, the last 60 s (quiet_s) of 120 (duration_s): it must be below",
        ),
        (
            'quiet_s = 60\n[[attacks]]\nkind = "refuser"\nfrom_s = 60\n',
            "attacks.0.from_s = 60 is in the quiet phase, the last 60 s",
        ),
        ("quiet_s = 60\n[churn]\ncrowd_factor = 1\ncrowd_at_s = 70\n", "churn.crowd_at_s = 70 is in the quiet phase"),
        (
            '[[attacks]]\nkind = "refuser"\nfrom_s = 60\nuntil_s = 20\n',
            "attacks.0.until_s = 20 is not after from_s, which is 60; 0 is to the end",
        ),
        (
            fault("partition", 'regions = ["mars"]', '[topology]\nlatency = "regions8"\n'),
            "faults.0.regions.0 = 'mars' is wrong: it must be one of australia, europe, east-asia, west-asia, na-east,",
        ),
        (
            fault("partition", 'regions = ["europe"]'),
            "faults.0.regions.0 = 'europe' is wrong: it must be one of planetlab490-1, planetlab490-2,",
        ),
        (
            fault("partition", 'regions = ["everywhere"]', '[topology]\nlatency = "uniform"\n'),
            "faults.0.regions has no sense here: topology.latency = uniform has but one region; use groups",
        ),
        (
            fault("partition", f"regions = {[f'planetlab490-{place}' for place in range(1, 7)]}"),
            "faults.0.regions has every region there is: nobody would be on the other side",
        ),
        (fault("partition", "groups = [1.0, 0.0]"), "faults.0.groups = [1.0, 0.0] has fewer than two sides with nodes"),
        (
            fault("crash", "nodes = [2, 99]", "[topology]\nnodes = 30\n"),
            "faults.0.nodes.1 = 99 is no node: the 30 of topology.nodes count from 0 to 29",
        ),
        (MANY, "attacks.1.share is too much: the shares of all attacks are 0.5 + 0.6 = 1.1, more than all nodes"),
        ("[topology]\nseeds = 5\nnodes = 3\n", "topology.seeds = 5 is more than topology.nodes, which is 3"),
        (
            "[workload.prompt]\nleast = 500\nmost = 100\n",
            "workload.prompt.least = 500 is more than most, which is 100",
        ),
        (
            '[[models.catalogue]]\nname = "gpt-nine"\n',
            "models.catalogue.0.name = 'gpt-nine' is not in the table of models",
        ),
        ('[[models.catalogue]]\nname = "gpt-nine"\n', "a model of your own says params_b, its parameters in 10^9"),
        ('[[models.catalogue]]\nname = "lama-3.1-8b-instruct"\n', "(did you mean llama-3.1-8b-instruct?)"),
        (
            '[[models.catalogue]]\nname = "gpt-nine"\nparams_b = -1\n',
            "models.catalogue.0.params_b = -1 is wrong: it must be a number >= 0",
        ),
        ("hardware = []\n", "hardware = [] is wrong: it must be a list of at least 1 with gpu,"),
        ("[models]\ncatalogue = []\n", "models.catalogue = [] is wrong: it must be a list of at least 1 with name,"),
        (
            "warmup_s = 50\nquiet_s = 70\n",
            "warmup_s = 50 and quiet_s = 70 leave nothing of the 120 s of duration_s, so no job would be measured",
        ),
        (
            "chaos = true\n",
            "quiet_s = 0 is wrong with chaos: what it breaks has to heal, so it must be at least 60, which is "
            "measure.liveness_s",
        ),
        ("quiet_s = 30\n", "quiet_s = 30 is less than measure.liveness_s, which is 60: the network could not be found"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    said = refusal(path)
    assert said.startswith(f"{path}: ")
    assert says in said


@pytest.mark.parametrize(
    "text",
    [
        fault("loss", "for_s = 30\namount = 0.5") + fault("loss", "at_s = 100\namount = 0.5"),
        fault("clock_jump", "amount = -10"),
        fault("hold", "amount = 0.5"),
        fault("partition", 'regions = ["europe"]', '[topology]\nlatency = "regions8"\n'),
        'quiet_s = 60\n[[attacks]]\nkind = "refuser"\nfrom_s = 50\n',
        "quiet_s = 30\n[measure]\nliveness_s = 30\n",
        "chaos = true\nquiet_s = 60\n",
        '[[models.catalogue]]\nname = "gpt-nine"\nparams_b = 9\n',
        '[[models.catalogue]]\nname = "mistral-7b-instruct"\n',
        '[[models.catalogue]]\nname = "meta-llama/Meta-Llama-3.1-8B-Instruct-AWQ"\n',
        '[[models.catalogue]]\nname = "llama-3.2-3b-instruct"\n',
    ],
)
def test_what_can_be_meant_is_not_refused(tmp_path: Path, text: str) -> None:
    assert load(written(tmp_path, text)).points


def test_what_depends_on_what_is_swept_is_looked_at_point_by_point(tmp_path: Path) -> None:
    path = written(tmp_path, '[[faults]]\nkind = "loss"\namount = 0.5\n[sweep]\n"topology.loss" = [0.1, 0.5]\n')
    assert "at topology.loss=0.5: faults.0.amount makes it 1 of" in refusal(path)
    path = written(tmp_path, '[[faults]]\nkind = "crash"\nnodes = [5]\n[sweep]\n"topology.nodes" = [6, 5]\n')
    assert "at topology.nodes=5: faults.0.nodes.0 = 5 is no node" in refusal(path)
    said = refusal(written(tmp_path, ""), "topology.nodes=2")
    assert said.endswith("topology.seeds = 3 is more than topology.nodes, which is 2")


@pytest.mark.slow
def test_every_shipped_scenario_is_right() -> None:
    for path in shipped():
        for _, scenario in load(path).points:
            assert list(by_meaning(scenario)) == [], path


@pytest.mark.parametrize(("nodes", "time_s"), [(30, 300.0), (30, 180.0), (2, 180.0), (8, 200.0), (100, 3600.0)])
def test_what_the_fuzzer_draws_is_right(nodes: int, time_s: float) -> None:
    for seed in range(60):
        assert list(by_meaning(fuzz.scenario_of(seed, nodes, time_s))) == [], seed


def test_chaos_never_loses_everything() -> None:
    lossy = Scenario(name="x", duration_s=900.0, chaos=True, quiet_s=60.0, topology=Topology(loss=0.9))
    for seed in range(40):
        assert not list(drowned(lossy, drawn(lossy, seed)))
    given = msgspec.structs.replace(lossy, topology=Topology(), faults=(Fault(kind="loss", amount=0.9, for_s=900.0),))
    losses = [one for seed in range(40) for one in drawn(given, seed) if one.kind == "loss"]
    assert all(one.amount < 0.1 or one.at_s + one.for_s < 60.0 for one in losses)
