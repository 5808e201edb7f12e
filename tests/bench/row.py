"""One line of the table that ``make bench`` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """``met`` is None where there is no target to meet."""

    what: str
    target: str
    measured: str
    met: bool | None
    how: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
