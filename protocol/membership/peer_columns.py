"""The columns of the peer view: the figures of each peer that ranking computes with, and their first values.

Not here: what writes them (``peer_view``), how they lie in memory (``columns``).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

#: Round trip to a peer that was never measured, seconds (guess: another continent).
UNKNOWN_RTT_S: Final = 0.1
#: Places at a peer that does not say how many it has (guess).
UNKNOWN_SLOTS: Final = 16.0

#: The columns, with the value of a peer of which nothing is known.
PEER_COLUMNS: Final[dict[str, tuple[type[np.generic], float]]] = {
    # The figures of a load, written at once.
    "load_until": (np.float64, math.inf),  # no load known: assumed to be idle
    "until": (np.float64, -math.inf),
    "jobs": (np.float64, 0.0),
    "slots": (np.float64, 0.0),
    "places": (np.float64, UNKNOWN_SLOTS),  # the same, assumed where a peer does not say
    "prefill": (np.float64, 0.0),
    "covered": (np.float64, 0.0),  # in flight when the load arrived, so counted in it
    "free": (np.float64, 0.0),
    "running": (np.float64, 0.0),
    "kv": (np.float64, 0.0),  # used share of the KV cache
    "clock": (np.float64, 1.0),  # share of the full clock
    "told_at": (np.float64, -math.inf),  # when the load arrived
    "busy_until": (np.float64, -math.inf),  # with prompts of our own jobs since then
    # Until when it may be asked for anything: -inf for a peer that is gone, leaves, lies or speaks another version.
    "open_until": (np.float64, -math.inf),
    "advert_until": (np.float64, -math.inf),
    "missed_until": (np.float64, -math.inf),  # a dial failed: asked after others until then
    "absent_until": (np.float64, -math.inf),  # the same: not asked at all until then
    "barred_until": (np.float64, -math.inf),  # asked last until then
    # What follows now from what was learned: computed for all peers at once (``reputation.projections``).
    "completed": (np.float64, 0.0),
    "chance": (np.float64, 0.9),
    "deviation": (np.float64, 0.0),
    "vram": (np.float64, 0.0),
    "tflops": (np.float64, 0.0),
    "bandwidth": (np.float64, 0.0),
    "first_seen": (np.float64, 0.0),
    "rtt": (np.float64, math.nan),
    "way": (np.float64, UNKNOWN_RTT_S),  # the same, none to this node and assumed where it was never measured
    "link": (np.float64, UNKNOWN_RTT_S),  # the same with its variation
    "inflight": (np.float64, 0.0),
    "group": (np.int64, 0),
    "protocol": (np.int32, 0),
    "status": (np.int8, 0),
    "alive": (np.int8, 0),
    "reached": (np.int8, 0),  # 1: a link stood; 0: never dialled from here; -1: the last dial failed
    "used": (np.bool_, 0),
    "kept": (np.bool_, 0),  # never gives way
    "absurd": (np.bool_, 0),  # claims what cannot be true
    "me": (np.bool_, 0),
    "judged": (np.bool_, 0),  # there is evidence of it
    "proven": (np.bool_, 0),  # completed enough jobs of ours
    "linked": (np.bool_, 0),  # a link stands
    "fresh": (np.bool_, 0),  # over it the peer tells each change of its load
    "wanted": (np.bool_, 0),  # offers a model that this node serves or was asked for
}
#: Those that a load fills in one write.
OF_A_LOAD: Final = (
    *("load_until", "until", "jobs", "slots", "places", "prefill", "covered", "free"),
    *("running", "kv", "clock", "told_at", "busy_until", "open_until"),
)
