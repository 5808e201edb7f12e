"""What is wrong with the values of a scenario, said so that it can be put right: key path, what is there, what may be.

The types are those of ``scenario``, read from its annotations, so that a new key needs nothing here.

Not here: what no type can tell (``validation``), reading files and joining them (``files``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec.inspect as kinds

from simulations.scenario import Scenario

#: Names offered in one message, and how alike a name must be to be meant (guess).
MOST_NAMES: Final = 24
ALIKE: Final = 0.5


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
    if kind.ge is not None and kind.lt is not None:
        return f"{text} from {kind.ge:g} to less than {kind.lt:g}"
    if kind.gt is not None:
        return f"{text} above {kind.gt:g}"
    return text if kind.ge is None else f"{text} of at least {kind.ge:g}"


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
