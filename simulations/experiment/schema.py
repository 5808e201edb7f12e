"""Reports the values of a scenario that have the wrong type: the dotted key, the value, and the allowed values.

``msgspec`` checks the types of ``scenario``, so a new key needs nothing here.  Not here: rules that no type expresses
(``validation``), reading and merging files (``overrides``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from operator import getitem
from typing import Any, Final

import msgspec

from simulations.scenario import Scenario

#: Names offered in one message, and the similarity a suggested name needs (guess).
MOST_NAMES: Final = 24
ALIKE: Final = 0.5
#: The two messages of ``msgspec`` that name a field of the table at their path.
_FIELD: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`")

#: The types that ``msgspec`` expects, and the bounds of its types, in words.
_TYPES: Final = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "a table",
    "str": "text in quotes",
}
_BOUNDS: Final = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("min_length", "of at least"))


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the dotted key, and the rest of the sentence."""

    key: str
    says: str


def by_type(table: Mapping[str, Any]) -> Iterator[Problem]:
    """Every value that does not fit the type of its key.

    ``msgspec`` reports one mistake at a time, so each is removed before the next conversion; in a list, with the list.
    """
    left = deepcopy(dict(table))
    while True:
        try:
            msgspec.convert(left, Scenario)
        except msgspec.ValidationError as error:
            words, says = _mistake(str(error), left)
            yield Problem(".".join(words), says)
            *outer, last = takewhile(lambda word: not word.isdigit(), words)
            reduce(getitem, outer, left).pop(last, None)
            left.setdefault("name", "")
        else:
            return


def _mistake(message: str, value: Any) -> tuple[list[str], str]:
    """The words of the key that a message of ``msgspec`` is about, and the sentence about its value."""
    what, _, path = message.partition(" - at `$")
    words = re.findall(r"\w+", path)
    kind: Any = msgspec.inspect.type_info(Scenario)
    for word in words:
        if word.isdigit():
            kind, value = kind.item_type, value[int(word)]
        else:
            kind, value = next(field.type for field in kind.fields if field.name == word), value[word]
    kind = getattr(kind, "types", (kind,))[0]
    names = [field.name for field in getattr(getattr(kind, "item_type", kind), "fields", ())]
    if field := _FIELD.fullmatch(what):
        unknown = field[1] == "contains unknown"
        return [*words, field[2]], no_such(field[2], names, ".".join(words)) if unknown else "is missing"
    if isinstance(kind, msgspec.inspect.LiteralType):
        return words, none_of(value, [str(each) for each in kind.values])
    limits = [f"{sign} {limit:g}" for bound, sign in _BOUNDS if (limit := getattr(kind, bound, None)) is not None]
    wanted = " ".join((_TYPES[re.findall(r"\w+", what)[1]], " and ".join(limits))).strip()
    return words, f"= {shown(value)} is wrong: it must be {wanted}{f' with {listed(names)}' if names else ''}"


def no_such(name: str, known: Iterable[str], inside: str) -> str:
    """The sentence about a key that does not exist."""
    names = list(known)
    where = f"[{inside}]" if inside else "a scenario"
    return f"is no key of {where}{meant(name, names)}; it has {listed(names)}"


def none_of(value: Any, known: Iterable[str]) -> str:
    """The sentence about a value that is none of the allowed names."""
    names = list(known)
    return f"= {shown(value)} is wrong: it must be one of {listed(names)}{meant(str(value), names)}"


def meant(name: str, known: Iterable[str]) -> str:
    """``(did you mean X?)``, or nothing."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=ALIKE)
    return f" (did you mean {near[0]}?)" if near else ""


def listed(names: Iterable[str]) -> str:
    """Names in a row; of very many, the first."""
    all_names = list(names)
    more = f" and {len(all_names) - MOST_NAMES} more" if len(all_names) > MOST_NAMES else ""
    return ", ".join(all_names[:MOST_NAMES]) + more


def shown(value: Any) -> str:
    """A value as it would be written, not longer than a line."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
