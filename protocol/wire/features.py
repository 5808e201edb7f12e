"""The optional parts of the protocol, by the names that HELLO gives them.

A node lists in HELLO what it speaks beyond the first version of the protocol.  On a link it uses only what both ends
listed.  A node of the first version lists nothing and ignores the list, so it gets the messages that it knows.
A part needs a name only if its sender has to know that the receiver speaks it: a reader ignores unknown kinds and
appended fields.  Not here: the messages (``messages``).
"""

from __future__ import annotations

from typing import Final

#: Loads that a worker sends over a standing link on change.
FRESH_LOAD: Final = "fresh-load"

#: What this version speaks.
OFFERED: Final[tuple[str, ...]] = (FRESH_LOAD,)


def agreed(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    """The features that both ends of a link listed, in alphabetical order."""
    return tuple(sorted(set(ours) & set(theirs)))
