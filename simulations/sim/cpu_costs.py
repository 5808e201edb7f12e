"""What a daemon pays in CPU seconds for each thing it does: the constants of the CPU model, and where they come from.

The figures are in ``costs.toml`` beside this file, written by ``python -m tests.bench costs --write`` and its path;
measured with the daemon's own code, so that no simulated network is healthier than a real one.

Not here: when a node is busy, and what waits for that (``peer``).
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from simulations.scenario import Part

#: The measured figures.
FILE = Path(__file__).parents[1] / "costs.toml"


class Costs(Part, frozen=True):
    """CPU seconds.  A message costs ``message_s`` and ``byte_s`` for each of its bytes, and what is in it."""

    #: One message over a link, both ends together, whatever it says: frames, yamux, Noise, the system's calls.
    message_s: float
    #: One byte of it, both ends together: what encryption and copying add.
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
    """The figures of a file; raises ``msgspec.ValidationError`` with the name of what is wrong."""
    return msgspec.toml.decode(path.read_bytes(), type=Measured)
