"""Makes scenarios of TOML files: one for every combination of the values in ``[sweep]``.

``[sweep]`` names dotted keys (``"topology.nodes"``, ``"attacks.0.share"``, ``"hardware"``) and lists of their values.
``[node]`` starts from the settings of ``profile``.  An override of a key that is swept ends its sweep.

Not here: merging files and options (``overrides``), checks (``schema``, ``validation``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from protocol.settings import PROFILES
from simulations.experiment.goals import Goal, GoalError, as_text, read_goal
from simulations.experiment.overrides import (
    SHIPPED,
    Layers,
    Overrides,
    ScenarioError,
    dotted,
    merge,
    put,
    read_policy,
    read_setting,
)
from simulations.experiment.schema import Problem, by_type, listed, meant, no_such, shown
from simulations.experiment.validation import by_meaning
from simulations.scenario import Scenario

#: Values of swept keys, by dotted key, in the order of the sweep.
Point = dict[str, Any]

#: The policy that a sweep over policies is held against.
CEILING: Final = "omniscient"
POLICY_KEY: Final = "routing.policy"
#: How files begin that are no experiments of their own.
BASE: Final = "base"
#: The word for every shipped scenario.
ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One file: the scenario as it stands (sweep and goals included), and the scenario at every point of the sweep."""

    path: Path
    scenario: Scenario
    points: tuple[tuple[Point, Scenario], ...]
    goals: tuple[Goal, ...]
    overrides: Overrides = field(default_factory=Overrides)

    @property
    def name(self) -> str:
        """The name of its results."""
        return self.scenario.name


def load(path: Path, overrides: Overrides | None = None) -> Loaded:
    """Everything of one file.

    Raises:
      ScenarioError: one line per problem.
    """
    layers = Layers.of_file(path)
    if overrides:
        layers.override(overrides)
    table = deepcopy(layers.table)
    sweep, goals = table.pop("sweep", {}), table.pop("goals", {})
    layers.fail([*by_type(table), *_sweep_problems(sweep), *_goal_problems(goals)])
    if overrides:
        _override_sweep(table, sweep, overrides)
    scenario = _converted(table | {"sweep": sweep, "goals": goals})
    points = tuple(_points(layers, table, sweep))
    read = tuple(read_goal(key, text) for key, text in goals.items())
    layers.fail(_unmet_goals(read, [scenario for _, scenario in points], bool(overrides)))
    return Loaded(path, scenario, points, read, overrides or Overrides())


def find(name: str) -> list[Path]:
    """The files that a word on the command line means: a path, or shipped scenarios (``E4``, ``all``).

    The name of a shipped one may have its ending, as its file does.
    """
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise ScenarioError(f"{name} is a folder: name the files in it, as in {path}/*.toml")
    names = {file.stem: file for file in shipped()}
    wanted = name.lower()
    if wanted == ALL and names:
        return list(names.values())
    whole = wanted.removesuffix(".toml")
    found = [names[whole]] if whole in names else [names[stem] for stem in names if stem.startswith(f"{wanted}-")]
    if not found:
        known = f"; shipped are {listed(names)}" if names else ""
        raise ScenarioError(f"{name} is neither a file nor a shipped scenario{meant(whole, names)}{known}")
    return found


def shipped() -> list[Path]:
    """The shipped scenarios, E2 before E10; ``base*.toml`` are there to be extended."""
    files = [path for path in SHIPPED.glob("*.toml") if not path.stem.startswith(BASE)]
    return sorted(files, key=lambda path: (path.stem[:1], _number(path.stem), path.stem))


def about(path: Path) -> str:
    """The sentence that a file says about itself."""
    return str(Layers.of_file(path).table.get("about", ""))


def _number(stem: str) -> int:
    return int("".join(itertools.takewhile(str.isdigit, stem[1:])) or 0)


# --- one scenario ----------------------------------------------------------------------------------------------------


def _converted(table: Mapping[str, Any]) -> Scenario:
    """The scenario of a table whose types are right: settings of the profile under those of ``node``."""
    profile = msgspec.to_builtins(PROFILES[table.get("profile", "wan")])
    return msgspec.convert({**table, "node": merge(profile, table.get("node", {}))}, Scenario)


def _points(
    layers: Layers, table: Mapping[str, Any], sweep: Mapping[str, list[Any]]
) -> Iterator[tuple[Point, Scenario]]:
    for values in itertools.product(*sweep.values()):
        point = dict(zip(sweep, values, strict=True))
        swept = deepcopy(dict(table))
        for key, value in point.items():
            try:
                put(swept, key, value)
            except KeyError as error:
                layers.fail([Problem("sweep", error.args[0])])
        at = f"at {label(point)}: " if point else ""
        layers.fail(by_type(swept), at, point)
        scenario = _converted(swept)
        layers.fail(by_meaning(scenario), at, point)
        yield point, scenario


def label(point: Mapping[str, Any]) -> str:
    """A point in a few words."""
    return ", ".join(f"{key}={short_value(value)}" for key, value in point.items())


def short_value(value: Any) -> str:
    """Lists of tables (machines, faults) by the first thing that each says."""
    if isinstance(value, list | tuple):
        return "+".join(short_value(each) for each in value) or "none"
    if isinstance(value, Mapping):
        return as_text(next(iter(value.values()), ""))
    return as_text(value)


def value_at(scenario: Scenario, key: str) -> Any:
    """The value of a dotted key; None if there is none.  Raises ``KeyError`` with a sentence if no such key exists."""
    here: Any = scenario
    words = key.split(".")
    for place, word in enumerate(words):
        if isinstance(here, msgspec.Struct) and word not in here.__struct_fields__:
            raise KeyError(f"{word} {no_such(word, here.__struct_fields__, '.'.join(words[:place]))}")
        if isinstance(here, tuple):
            here = here[int(word)] if word.isdigit() and int(word) < len(here) else None
        else:
            here = getattr(here, word, None)
    return here


# --- sweeps ----------------------------------------------------------------------------------------------------------


def _sweep_problems(sweep: Any) -> Iterator[Problem]:
    if not isinstance(sweep, dict):
        yield Problem("sweep", 'is wrong: it must be a table, as in [sweep] "topology.nodes" = [100, 1000]')
        return
    for key, values in sweep.items():
        if isinstance(values, dict):
            yield Problem("sweep", f'{key}: dotted keys stand in quotes here: "{key}.{next(iter(values), "")}" = [...]')
        elif not isinstance(values, list) or not values:
            yield Problem("sweep", f'"{key}" = {shown(values)} is wrong: it must be a list of values, at least one')


def _override_sweep(table: Mapping[str, Any], sweep: dict[str, list[Any]], overrides: Overrides) -> None:
    """An override of a swept key, or of something in it, takes the place of its values.

    ``--policy`` keeps the ceiling where it was swept, so that the user's own policy has something to be held against.
    """
    given = [read_setting(text)[0] for text in overrides.settings]
    policy = read_policy(overrides.policy) if overrides.policy else {}
    given += [f"workload.{word}" for word in ("kind", "trace") if overrides.trace]
    given += dotted(policy)
    for key in list(sweep):
        if not any(f"{each}.".startswith(f"{key}.") or f"{key}.".startswith(f"{each}.") for each in given):
            continue
        if key == POLICY_KEY and "routing" in policy and CEILING in sweep[key]:
            sweep[key] = list(dict.fromkeys((table["routing"]["policy"], CEILING)))
        else:
            del sweep[key]


# --- goals -----------------------------------------------------------------------------------------------------------


def _goal_problems(goals: Any) -> Iterator[Problem]:
    if not isinstance(goals, dict):
        yield Problem("goals", 'is wrong: it must be a table, as in [goals] success_rate = ">= 0.995"')
        return
    for key, text in goals.items():
        if isinstance(text, dict):
            yield Problem("goals", f'{key}: dotted names stand in quotes here: "{key}.{next(iter(text), "")}" = "<= 1"')
            continue
        try:
            read_goal(key, text)
        except GoalError as error:
            yield Problem("goals", f'"{key}" {error}')


def _unmet_goals(goals: Sequence[Goal], points: Sequence[Scenario], overridden: bool) -> Iterator[Problem]:
    """Goals about keys that do not exist or, unless an override took them away, about no point: they could not fail."""
    for goal in goals:
        try:
            have = {key: dict.fromkeys(as_text(value_at(point, key)) for point in points) for key, _ in goal.where}
        except KeyError as error:
            yield Problem("goals", f'"{goal.key}": {error.args[0]}')
            continue
        if not overridden and not any(goal.concerns(partial(value_at, point)) for point in points):
            values = "; ".join(f"{key} is {listed(texts)}" for key, texts in have.items())
            yield Problem("goals", f'"{goal.key}" is about no point of the sweep: {values}')
