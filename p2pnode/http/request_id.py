"""The id of a request: what ``x-request-id`` says, logs carry and ``/v1/jobs`` answers to.

Always our own: a caller's would have to be checked for what may stand in a header.
"""

from __future__ import annotations

import os
from typing import Final

#: 96 random bits: no two in the life of the universe's GPUs.
ID_BYTES: Final = 12


def new_request_id() -> str:
    """A fresh id, ``req_`` and hexadecimal."""
    return "req_" + os.urandom(ID_BYTES).hex()
