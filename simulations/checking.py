"""What is wrong with the values of a scenario, said so that it can be put right: key path, what is there, what may be.

Two kinds of checks: the types of ``scenario`` (read from its annotations, so that a new key needs nothing here), and
what no type can tell: names that only tables and registries know, times that lie after the end.

Not here: reading files and joining them (``files``).  Who calls it: ``files``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec.inspect as kinds

from protocol.hardware import find_gpu, gpu_names
from protocol.policies import POLICIES, SORTS
from simulations.scenario import Scenario

#: Names offered in one message, and how alike a name must be to be meant (guess).
MOST_NAMES: Final = 24
ALIKE: Final = 0.5
#: Settings of ``node`` that are the time between two turns of something: 0 would never end.
PERIODS: Final = (
    "tick_s",
    "digest_s",
    "load_period_s",
    "period_s",
    "rotate_s",
    "redial_first_s",
    "republish_s",
    "refresh_s",
    "query_s",
    "ping_s",
    "beat_s",
)
#: Traces that are shipped; anything else is the path of a file (``traces`` has the same names).
TRACES: Final = ("azure-code", "azure-conv", "mooncake-conversation", "mooncake-synthetic", "servegen")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the dotted key, and the rest of the sentence."""

    key: str
    says: str


# --- by type ---------------------------------------------------------------------------------------------------------


def by_type(value: Any, kind: kinds.Type | None = None, key: str = "") -> Iterator[Problem]:
    """Everything in ``value`` that is no ``kind`` (a whole scenario unless said)."""
    kind = kinds.type_info(Scenario) if kind is None else kind
    if isinstance(kind, kinds.StructType):
        yield from _table(value, kind, key)
    elif isinstance(kind, kinds.VarTupleType | kinds.ListType):
        yield from _array(value, kind, key)
    elif isinstance(kind, kinds.UnionType):
        if all(any(True for _ in by_type(value, each, key)) for each in kind.types):
            yield _not(value, kind, key)
    elif not _fits(value, kind):
        yield _not(value, kind, key)


def type_of(key: str) -> kinds.Type:
    """The type of a dotted key; a number steps into an array.  Raises ``KeyError`` with the sentence about it."""
    kind: kinds.Type = kinds.type_info(Scenario)
    walked: list[str] = []
    for word in key.split("."):
        if isinstance(kind, kinds.VarTupleType | kinds.ListType) and word.isdigit():
            kind = kind.item_type
        elif isinstance(kind, kinds.StructType):
            fields = {field.name: field.type for field in kind.fields}
            if word not in fields:
                raise KeyError(f"{word} {no_such(word, list(fields), '.'.join(walked))}")
            kind = fields[word]
        else:
            inside = ".".join(walked)
            raise KeyError(f"{inside} is {wanted(kind)}: there is nothing called {word!r} in it")
        walked.append(word)
    return kind


def _table(value: Any, kind: kinds.StructType, key: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield _not(value, kind, key)
        return
    fields = {field.name: field for field in kind.fields}
    for name, item in value.items():
        where = f"{key}.{name}" if key else name
        if name in fields:
            yield from by_type(item, fields[name].type, where)
        else:
            yield Problem(where, no_such(name, list(fields), key))
    for name, field in fields.items():
        if field.required and name not in value:
            yield Problem(f"{key}.{name}" if key else name, f"is missing; it must be {wanted(field.type)}")


def _array(value: Any, kind: kinds.VarTupleType | kinds.ListType, key: str) -> Iterator[Problem]:
    if not isinstance(value, list | tuple):
        yield _not(value, kind, key)
        return
    if len(value) < (kind.min_length or 0):
        yield Problem(key, f"is empty; it must be {wanted(kind)}")
    for index, item in enumerate(value):
        yield from by_type(item, kind.item_type, f"{key}.{index}")


def _fits(value: Any, kind: kinds.Type) -> bool:
    if isinstance(kind, kinds.LiteralType):
        return value in kind.values
    if isinstance(kind, kinds.IntType | kinds.FloatType):
        number = int if isinstance(kind, kinds.IntType) else (int, float)
        return isinstance(value, number) and not isinstance(value, bool) and _within(value, kind)
    plain = {kinds.BoolType: bool, kinds.StrType: str, kinds.NoneType: type(None), kinds.DictType: dict}
    return isinstance(value, plain.get(type(kind), object))


def _within(value: Any, kind: kinds.IntType | kinds.FloatType) -> bool:
    """Inside the bounds; written so that a NaN is outside."""
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
        and abs(value) != float("inf")
        and bool(value == value)  # noqa: PLR0124 - only a NaN differs from itself
    )


def _not(value: Any, kind: kinds.Type, key: str) -> Problem:
    near = ""
    if isinstance(kind, kinds.LiteralType) and isinstance(value, str):
        near = meant(value, [str(each) for each in kind.values])
    return Problem(key, f"= {shown(value)} is wrong: it must be {wanted(kind)}{near}")


def wanted(kind: kinds.Type) -> str:
    """What a value of this type is, in words."""
    if isinstance(kind, kinds.LiteralType):
        return "one of " + ", ".join(str(value) for value in kind.values)
    if isinstance(kind, kinds.IntType | kinds.FloatType):
        return _number(kind)
    if isinstance(kind, kinds.StructType):
        return "a table with " + ", ".join(field.name for field in kind.fields)
    if isinstance(kind, kinds.VarTupleType | kinds.ListType):
        return f"a list, each {wanted(kind.item_type)}"
    if isinstance(kind, kinds.UnionType):
        return " or ".join(wanted(each) for each in kind.types if not isinstance(each, kinds.NoneType))
    plain: dict[type[kinds.Type], str] = {
        kinds.BoolType: "true or false",
        kinds.StrType: "text in quotes",
        kinds.DictType: "a table",
    }
    return plain.get(type(kind), "something else")


def _number(kind: kinds.IntType | kinds.FloatType) -> str:
    text = "a whole number" if isinstance(kind, kinds.IntType) else "a number"
    if kind.ge is not None and kind.le is not None:
        return f"{text} from {kind.ge:g} to {kind.le:g}"
    if kind.gt is not None:
        return f"{text} above {kind.gt:g}"
    return text if kind.ge is None else f"{text} of at least {kind.ge:g}"


# --- what types cannot tell ------------------------------------------------------------------------------------------


def by_meaning(scenario: Scenario) -> Iterator[Problem]:
    """What is wrong with values of the right type."""
    yield from _names(scenario)
    yield from _times(scenario)
    yield from _settings(scenario)


def _names(scenario: Scenario) -> Iterator[Problem]:
    yield from _one_of("routing.policy", scenario.routing.policy, policies())
    for index, machine in enumerate(scenario.hardware):
        if find_gpu(machine.gpu) is None:
            says = f"= {shown(machine.gpu)} is not in the table of GPUs{meant(machine.gpu, gpu_names())}"
            digits = "".join(filter(str.isdigit, machine.gpu))
            alike = [name for name in gpu_names() if digits and digits in name]
            yield Problem(f"hardware.{index}.gpu", f"{says}; there are {listed(alike or gpu_names())}")
    for index, fault in enumerate(scenario.faults):
        yield from _one_of(f"faults.{index}.kind", fault.kind, registry("simulations.faults"))
    for index, attack in enumerate(scenario.attacks):
        yield from _one_of(f"attacks.{index}.kind", attack.kind, registry("simulations.attackers"))
    trace = scenario.workload.trace
    if scenario.workload.kind == "trace" and trace not in TRACES and not Path(trace).is_file():
        what = f"= {shown(trace)} is neither a trace nor a file" if trace else "is missing"
        yield Problem("workload.trace", f"{what}{meant(trace, TRACES)}; the traces are {listed(TRACES)}")
    elif scenario.workload.kind == "trace" and trace not in TRACES:
        yield from _own_trace(scenario)


def _own_trace(scenario: Scenario) -> Iterator[Problem]:
    """What is wrong with a file of the user's, found before the first run."""
    traces = importlib.import_module("simulations.traces")
    try:
        traces.check(scenario)
    except traces.BadTrace as error:
        yield Problem("workload.trace", f"cannot be replayed: {error}")


def _times(scenario: Scenario) -> Iterator[Problem]:
    end = scenario.duration_s
    for key, value in (("warmup_s", scenario.warmup_s), ("quiet_s", scenario.quiet_s)):
        if value >= end:
            yield Problem(key, f"= {value:g} leaves nothing of the {end:g} s of duration_s")
    begins = [(f"faults.{index}.at_s", fault.at_s) for index, fault in enumerate(scenario.faults)]
    begins += [(f"attacks.{index}.from_s", attack.from_s) for index, attack in enumerate(scenario.attacks)]
    for key, at in begins:
        if at >= end:
            yield Problem(key, f"= {at:g} is after the end: duration_s is {end:g}")


def _settings(scenario: Scenario) -> Iterator[Problem]:
    for part in scenario.node.__struct_fields__:
        settings = getattr(scenario.node, part)
        for name in settings.__struct_fields__:
            value = getattr(settings, name)
            if isinstance(value, int | float) and (value < 0 or (name in PERIODS and value == 0)):
                least = "above 0" if name in PERIODS else "of at least 0"
                yield Problem(f"node.{part}.{name}", f"= {value:g} is wrong: it must be a number {least}")


def policies() -> tuple[str, ...]:
    """What ``routing.policy`` may name: the daemon's policies and the simulator's own."""
    return tuple(dict.fromkeys((*POLICIES, *SORTS, *(registry("simulations.choosing", "BASELINES") or ()))))


def registry(module: str, name: str = "KINDS") -> tuple[str, ...] | None:
    """The names in a table of a module, imported only now because it brings the whole simulator; None if none."""
    if importlib.util.find_spec(module) is None:
        return None
    names = getattr(importlib.import_module(module), name, None)
    return None if names is None else tuple(names)


def _one_of(key: str, value: str, known: Iterable[str] | None) -> Iterator[Problem]:
    if known is None or value in known:
        return
    names = list(known)
    yield Problem(key, f"= {shown(value)} is wrong: it must be one of {listed(names)}{meant(value, names)}")


# --- words -----------------------------------------------------------------------------------------------------------


def no_such(name: str, known: Iterable[str], inside: str) -> str:
    """The sentence about a key that does not exist."""
    names = list(known)
    where = f"[{inside}]" if inside else "a scenario"
    return f"is no key of {where}{meant(name, names)}; it has {listed(names)}"


def meant(name: str, known: Iterable[str]) -> str:
    """``: did you mean X?``, or nothing."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=ALIKE)
    return f" (did you mean {near[0]}?)" if near else ""


def listed(names: Iterable[str]) -> str:
    """Names in a row; of very many, the first."""
    all_names = list(names)
    more = f" and {len(all_names) - MOST_NAMES} more" if len(all_names) > MOST_NAMES else ""
    return ", ".join(all_names[:MOST_NAMES]) + more


def shown(value: Any) -> str:
    """A value as it would be written, not longer than a line."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
