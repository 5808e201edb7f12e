"""The type of a JSON object in Python.  It is a name only: whether the fields are there, their reader checks."""

from __future__ import annotations

from typing import Any

#: The values are ``Any`` because decoders return them so, and because status objects nest freely.
JsonObject = dict[str, Any]
