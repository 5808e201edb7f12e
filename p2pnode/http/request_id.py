"""Makes the id of a request, which ``x-request-id``, the log and ``/v1/jobs`` carry.

The id is always ours: a caller's id would have to be checked for characters that a header forbids.
"""

from __future__ import annotations

import os
from typing import Final

#: 96 random bits: a collision is improbable in any number of requests that a node can serve.
ID_BYTES: Final = 12


def new_request_id() -> str:
    """A fresh id, ``req_`` and hexadecimal."""
    return "req_" + os.urandom(ID_BYTES).hex()
