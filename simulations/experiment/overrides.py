"""Merges the layers of a scenario and remembers which layer set which key, so that a message names the right file.

The layers are the file that is extended, the file, ``--policy``, ``--trace``, ``--set``, ``--seed``.  Tables of a
later layer are merged into the earlier ones, everything else is replaced.

Not here: checks (``schema``, ``validation``), sweeps (``loading``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, Final

from simulations.experiment.schema import Problem, listed, meant
from simulations.workload.traces import NAMES as TRACES

#: Where the shipped scenarios are.
SHIPPED: Final = Path(__file__).parents[1] / "scenarios"
#: Problems told at once; more are mostly the same one again.
MOST_PROBLEMS: Final = 8
#: The tables and keys that a file for ``--policy`` may have.
POLICY_TABLES: Final = ("routing", "node", "profile")


class ScenarioError(ValueError):
    """A scenario cannot be read; every line names the file, the key, the error and the allowed values."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """The overrides of the command line."""

    settings: tuple[str, ...] = ()
    policy: Path | None = None
    trace: Path | None = None
    seeds: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self != Overrides()

    def words(self) -> list[str]:
        """The options again, for a command that repeats a run; without the seeds."""
        words = [] if self.policy is None else ["--policy", str(self.policy)]
        words += [] if self.trace is None else ["--trace", str(self.trace)]
        return words + [word for text in self.settings for word in ("--set", text)]


@dataclass(slots=True)
class Layers:
    """The merged table, and the keys that each layer set."""

    table: dict[str, Any] = field(default_factory=dict)
    said: list[tuple[str, list[str]]] = field(default_factory=list)
    #: The file that was named, which is blamed for a key that no layer sets.
    path: str = ""

    @classmethod
    def of_file(cls, path: Path) -> Layers:
        """A file and all that it extends."""
        layers = cls(path=str(path))
        for origin, table in _chain(path, ()):
            layers.merge(origin, table)
        return layers

    def merge(self, origin: str, table: Mapping[str, Any]) -> None:
        """Lay a table on top."""
        self.table = merge(self.table, table)
        self.said.append((origin, list(dotted(table))))

    def put(self, origin: str, key: str, value: Any) -> None:
        """Lay one value on top."""
        try:
            put(self.table, key, value)
        except KeyError as error:
            raise ScenarioError(f"{origin}: {error.args[0]}") from None
        self.said.append((origin, list(dotted(value, key))))

    def override(self, overrides: Overrides) -> None:
        """Apply the overrides of the command line; its sweeps are merged like any other table."""
        if overrides.policy is not None:
            self.merge(f"--policy {overrides.policy}", read_policy(overrides.policy))
        if overrides.trace is not None:
            if not overrides.trace.is_file():
                raise ScenarioError(f"--trace {overrides.trace}: there is no such file")
            table = {"workload": {"kind": "trace", "trace": str(overrides.trace)}}
            self.merge(f"--trace {overrides.trace}", table)
        for text in overrides.settings:
            key, value = read_setting(text)
            if key.startswith("sweep."):
                self.merge(f"--set {text}", {"sweep": {key.removeprefix("sweep."): value}})
            else:
                self.put(f"--set {text}", key, value)
        if overrides.seeds:
            self.put("--seed", "seeds", list(overrides.seeds))

    def origin(self, key: str) -> str:
        """The last layer that sets ``key``, or else the table it would be in; else the file that was named."""
        while key:
            for origin, keys in reversed(self.said):
                if any(f"{each}.".startswith(f"{key}.") for each in keys):
                    return origin
            key = key.rpartition(".")[0]
        return self.path

    def fail(self, problems: Iterable[Problem], at: str = "", swept: Iterable[str] = ()) -> None:
        """Raise ``ScenarioError`` if there are any; ``at`` names the point of a sweep over the keys ``swept``."""
        lines = []
        for problem in problems:
            sweeps = [f"sweep.{key}" for key in swept if f"{problem.key}.".startswith(f"{key}.")]
            lines.append(f"{self.origin([*sweeps, problem.key][0])}: {at}{problem.key} {problem.says}")
        more = [f"and {len(lines) - MOST_PROBLEMS} more"] if len(lines) > MOST_PROBLEMS else []
        if lines:
            raise ScenarioError("\n".join([*lines[:MOST_PROBLEMS], *more]))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file; ``ScenarioError`` with its name if it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=_finite)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise ScenarioError(f"{path} cannot be read: {error.strerror}") from None


def _finite(text: str) -> float | str:
    """A number of TOML; ``inf`` and ``nan`` stay text, which no number of a scenario accepts."""
    return number if isfinite(number := float(text)) else text


def read_policy(path: Path) -> dict[str, Any]:
    """Settings of the user's own: ``[routing]`` and ``[node]`` of a scenario, or the daemon's ``config.toml``."""
    table = read_toml(path)
    if "version" in table:
        return _daemons(table)
    for name in table:
        if name not in POLICY_TABLES:
            raise ScenarioError(
                f"--policy {path}: {name} has no place here{meant(name, POLICY_TABLES)}; "
                f"it may have {listed(POLICY_TABLES)}, or be the daemon's config.toml"
            )
    return table


def _daemons(table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the daemon's configuration that decide routing and gossip: ``node.policy`` and ``node.profile``."""
    node = table.get("node", {})
    routing = {"routing": {"policy": node["policy"]}} if "policy" in node else {}
    return routing | ({"profile": node["profile"]} if "profile" in node else {})


def read_setting(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``, the value as in TOML or else as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ScenarioError(f"--set {text}: write KEY=VALUE, as in --set topology.nodes=100")
    try:
        return key.strip(), tomllib.loads(f"value = {value}", parse_float=_finite)["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else is replaced; neither argument is changed, now or by a later ``put``."""
    merged = deepcopy(dict(below))
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else deepcopy(value)
    return merged


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making tables on the way; a number steps into a list.  Raises ``KeyError`` with a sentence."""
    words = key.split(".")
    last = words[-1]
    here: Any = table
    for word, after in pairwise(words):
        if isinstance(here, dict) and word not in here and after.isdigit():
            raise KeyError(f"{key} cannot be set: the scenario has no list {word}")
        here = here[_index(here, word, key)] if isinstance(here, list) else here.setdefault(word, {})
        if not isinstance(here, dict | list):
            raise KeyError(f"{key} cannot be set: {word} is no table")
    here[_index(here, last, key) if isinstance(here, list) else last] = deepcopy(value)


def _index(array: list[Any], word: str, key: str) -> int:
    if not word.isdigit() or int(word) >= len(array):
        raise KeyError(f"{key} cannot be set: {word!r} is no item of a list of {len(array)}; they count from 0")
    return int(word)


def dotted(value: Any, key: str = "") -> Iterator[str]:
    """The dotted keys of a table, down to those of single values."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else ()
    if not items:
        yield key
    for name, item in items:
        yield from dotted(item, f"{key}.{name}" if key else str(name))


def _chain(path: Path, seen: tuple[Path, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The file and those below it, the lowest first."""
    here = path.resolve()
    if here in seen:
        circle = " extends ".join(each.name for each in (*seen[seen.index(here) :], here))
        raise ScenarioError(f"{path}: extends goes in a circle: {circle}")
    table = read_toml(path)
    below = table.pop("extends", None)
    if below is not None:
        if not isinstance(below, str):
            raise ScenarioError(f"{path}: extends = {below!r} is wrong: it must be the name of one TOML file in quotes")
        table.setdefault("name", path.stem)  # results go by the name: not among those of the extended scenario
        yield from _chain(_extended(path, below), (*seen, here))
    _find_trace(table, path.parent)
    yield str(path), table


def _extended(path: Path, name: str) -> Path:
    """The file of that name beside ``path``, or else the shipped one (``base``, ``e4-routing.toml``)."""
    beside, shipped = path.parent / name, SHIPPED / f"{name.removesuffix('.toml')}.toml"
    if not beside.is_file() and not shipped.is_file():
        known = [file.stem for file in sorted(SHIPPED.glob("base*.toml"))]
        raise ScenarioError(
            f"{path}: extends = {name!r} is wrong: there is no file {beside}, and no such scenario is shipped; "
            f"made to be extended are {listed(known)}"
        )
    return beside if beside.is_file() else shipped


def _find_trace(table: dict[str, Any], folder: Path) -> None:
    """A trace that is a file is looked for beside the scenario."""
    workload = table.get("workload")
    trace = workload.get("trace") if isinstance(workload, dict) else None
    if isinstance(workload, dict) and isinstance(trace, str) and trace and trace not in TRACES:
        beside = folder / trace
        workload["trace"] = str(beside) if beside.is_file() else trace
