"""The CPU model: the CPU seconds that a daemon pays for each operation, and the source of the figures.

The figures are in ``simulations/costs.toml``, written by ``python -m tests.bench costs --write`` and its path.  They
are measured with the daemon's own code, so that no simulated network is healthier than a real one.

Not here: the time when a node is busy, and the queue for its processor (``host``).
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from simulations.scenario import Part

#: The measured figures.
FILE = Path(__file__).parents[1] / "costs.toml"


class Costs(Part, frozen=True):
    """CPU seconds.  A message costs ``message_s`` and ``byte_s`` for each of its bytes, plus its content."""

    #: One message over a link, both ends together, without its content: frames, yamux, Noise, the system's calls.
    message_s: float
    #: One byte of it, both ends together: the cost of encryption and copying.
    byte_s: float
    #: One statement in a message that was new: decoding, signature, view, the lists of the neighbours.
    new_record_s: float
    #: One statement in a message that was known.
    known_record_s: float
    #: One digest, with its answer.
    digest_s: float
    #: One message of any other kind (DHT, doubt), with its answer.
    other_message_s: float
    #: One decision where to run a job, and for each peer that offers the model on top of that.
    decision_s: float
    decision_peer_s: float
    #: One job, HTTP at the entry included, without its tokens and its decision.
    job_entry_s: float
    job_worker_s: float
    #: One token of an answer that is streamed.
    token_entry_s: float
    token_worker_s: float
    #: One link: TCP, Noise, yamux, HELLO; each end.
    dial_s: float


class Provenance(Part, frozen=True):
    """How the figures were come by."""

    command: str
    date: str
    machine: str


class Measured(Part, frozen=True):
    """The file."""

    provenance: Provenance
    costs: Costs


@functools.lru_cache(maxsize=1)
def load_costs() -> Costs:
    """The figures of the file that is shipped."""
    return read_costs(FILE).costs


def read_costs(path: Path) -> Measured:
    """The figures of a file; raises ``msgspec.ValidationError`` with the name of the wrong figure."""
    return msgspec.toml.decode(path.read_bytes(), type=Measured)
