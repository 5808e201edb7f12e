"""The intervals, bounds and limits of the machines, each with its unit and the source of its value.

The daemon and the simulator read the same settings under the same names.  Profiles: ``wan`` is the default, ``lan``
and ``local`` are faster, ``test`` is for tests and demos.  Not here: settings of the operator (``p2pnode/config.py``).
"""

from __future__ import annotations

from typing import Final

import msgspec

KIB: Final = 1024


class GossipSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dissemination (``gossip``)."""

    #: Seconds between pushes to each neighbour (measured: 1 s costs 0.45 % of a core at 100 nodes).
    tick_s: float = 1.0
    #: Seconds between digest exchanges with one neighbour.
    digest_s: float = 30.0
    #: Upload allowed to gossip, bytes per second, over all links.
    budget_bytes_s: int = 8 * KIB
    #: Bytes that a starting node may spend at once on digests and the records that they request; half of it is
    #: refilled for newcomers (simulated: with 64 KiB a cold start of 300 nodes takes a fifth longer).
    burst_bytes: int = 128 * KIB
    #: Life of an advert, seconds (DESIGN 2.1: at most 120 s); it is published again after half of it.
    advert_ttl_s: int = 120
    #: Shortest time between two loads of one node, seconds; it grows with the network (measured: 1 per 2-5 s).
    load_period_s: float = 5.0
    #: Life of a load as a multiple of its period (guess: survives two losses).
    load_ttl_periods: float = 4.0
    #: A load that differs from the last one by this share is published before its period is over.
    load_change: float = 0.2
    #: Tolerated clock error of another node, seconds (DESIGN 2.1).
    skew_s: float = 120.0
    #: High-water marks outlive their statement by this long, seconds (DESIGN 2.1: 7 days).
    marks_s: float = 7 * 86400.0
    #: Records in the view, and per network group (DESIGN 2.3: /24 or /48).
    view_size: int = 4096
    view_per_group: int = 64


class NeighbourSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Standing links (``overlay``)."""

    #: Links to maintain; this node dials half of them (DESIGN 4: 6 to 8).
    target: int = 8
    #: Most neighbours, inbound ones included; further links carry jobs only.
    most: int = 16
    #: Seconds between replacements of one dialled neighbour by another (guess).
    rotate_s: float = 600.0
    #: First and longest pause before a seed or peer is dialled again, seconds (full jitter, doubling).
    redial_first_s: float = 1.0
    redial_most_s: float = 60.0


class LinkPoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Links kept warm for jobs (``link_pool``).

    ``most`` + ``watchers`` + ``NeighbourSettings.most`` + ``reserve`` are the bound of connections: 256.
    """

    #: Links to peers that offer a model, for each model routed lately (simulated: SLO attainment 90 -> 97 % with 100
    #: nodes); at least half of them were chosen by this node.
    per_model: int = 16
    #: Links that this node keeps for jobs in all: those of five models (the other half is chosen by others).
    most: int = 80
    #: Peers for which this node is one of these links: more are told that it is full.
    watchers: int = 128
    #: Seconds between two loads told to one watcher, at least (routing study), and bytes per second for all of them.
    fresh_every_s: float = 0.5
    fresh_bytes_s: int = 3 * KIB
    #: Connections left for single jobs and look-ups: the pool dials only while more than so many are free (guess).
    reserve: int = 32
    #: Seconds that the links of a model outlive its last job (guess: a pause in a conversation).
    wanted_s: float = 300.0
    #: Seconds between replacements of one link by another (guess: a job takes 10 s).
    rotate_s: float = 120.0
    #: Dials of the pool under way at once (guess: a job must not wait behind them).
    dials: int = 4
    #: First and longest pause before a peer is tried again that was full or out of reach, seconds (full jitter,
    #: doubling).
    retry_first_s: float = 15.0
    retry_most_s: float = 600.0


class LivenessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Failure detection (``failure_detector``)."""

    #: Seconds between two probes of a peer (the product's requirement: 30 s).
    period_s: float = 30.0
    #: Missed probes until a peer counts as dead (the product's requirement: 3).
    misses: int = 3
    #: Random peers without a link to probe per period.
    probes: int = 2


class DhtSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kademlia (``dht``); k and alpha from the paper."""

    k: int = 20
    alpha: int = 3
    #: Seconds until an unanswered query counts as failed.
    query_s: float = 3.0
    #: Life of a provider statement and the time after which it is published again, seconds.
    provider_ttl_s: int = 3600
    republish_s: float = 1200.0
    #: Seconds between refreshes of the buckets.
    refresh_s: float = 600.0
    #: Contacts per bucket from one network group (guess: geth allows 2 of 16).
    per_group: int = 4
    #: Keys stored for other nodes, and statements under one key.
    store_keys: int = 4096
    store_per_key: int = 64
    #: Tolerated clock error of an author, seconds (DESIGN 2.1).
    skew_s: float = 120.0
    #: Links made for look-ups are closed after this long without use, seconds (guess: longer than the pause between
    #: two adverts, so that the peers that store ours need not be dialled each time).
    idle_s: float = 90.0


class ConnectionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Connections under the links (``connections``); bounds from DESIGN 3.1."""

    #: Sockets accepted per second and address, and how many at once after a pause.
    rate: float = 10.0
    burst: int = 40
    #: Accepted sockets that have not yet proven a key: in total, per address, and for how many seconds each.
    pending: int = 64
    pending_per_address: int = 4
    pending_s: float = 5.0
    #: Seconds from the proof of a key to the link's first stream.
    unlinked_s: float = 10.0
    #: Connections: in total; accepted ones in total, per address, per public /24 or /48, and per peer.
    connections: int = 256
    inbound: int = 192
    per_address: int = 8
    per_group: int = 32
    per_peer: int = 2
    #: Dials under way at once, and those that wait included.
    dials: int = 16
    dials_wanted: int = 128
    #: Seconds for a dial, both HELLOs included (guess: nine round trips, of 1 s each, with a peer that answers the
    #: proposals of a dial differently, and a slow machine), and for the HELLOs of an accepted link.
    dial_s: float = 15.0
    #: Seconds between two dials of an address that has proven no key, for all peers together (a victim of false
    #: adverts gets one a minute from each node).
    dial_again_s: float = 60.0
    hello_s: float = 5.0
    #: A link that we dialled, that is no neighbour's and that was idle for this long is closed, seconds (guess: longer
    #: than a pause in a conversation).
    idle_s: float = 60.0
    #: Seconds between two looks for such links (guess: a sixth more hardly matters).
    idle_check_s: float = 10.0


class PenaltySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bans (``penalties``)."""

    #: Points within this many seconds that ban a peer and its address for as long (DESIGN 3.2).
    ban_points: int = 5
    ban_s: float = 600.0


class LinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The multiplexer (``mux``)."""

    #: Bytes of job frames that a channel may have in flight; credit is returned at half of it.
    credit_bytes: int = 256 * KIB
    #: Seconds of silence after which a PING is sent, and after which the link is dead.
    ping_s: float = 5.0
    dead_s: float = 15.0
    #: Most bytes handed to one write.
    write_bytes: int = 64 * KIB
    #: Bytes of one channel in a write before the next channel's turn.
    quantum_bytes: int = 16 * KIB
    #: Largest payload of one frame.
    frame_bytes: int = 64 * KIB
    #: Channels open at once on a link, per side.
    channels: int = 256
    #: Bytes of channel-0 messages that may wait for the writer.
    control_queue_bytes: int = 1024 * KIB


class CascadeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job at the entry (``cascade``); deadlines from DESIGN 3.3."""

    attempts: int = 3
    accept_s: float = 3.0
    first_token_s: float = 5.0
    first_token_promises: float = 3.0
    #: The most that a promise counts where nothing is predicted or no other peer is left (guess: patience of a caller).
    promise_most_s: float = 60.0
    frame_s: float = 6.0
    #: Slowest progress after the first token where the pace cannot be predicted: DELTA frames per second over the
    #: window.
    least_deltas_s: float = 0.5
    progress_window_s: float = 20.0
    #: Shortest window where it is predicted (routing study, 2.6: a stall is noticed after 5 s).
    pace_window_s: float = 5.0
    #: Longest job if the caller sets no deadline, seconds.
    total_s: float = 600.0
    #: Peers asked for one job, the busy and the unreachable ones included (guess: the length of one ranking).
    asked: int = 8
    #: Peers beside them that could not be reached: a refused dial costs a round trip (guess: twice a ranking).
    unreached: int = 16
    #: Slowest tolerated upload of a request's body, bytes per second (guess: a bad mobile link).
    upload_bytes_s: int = 128 * KIB
    #: Longest answer that is not streamed, bytes: it is buffered until its END was verified.
    answer_bytes: int = 16 * KIB * KIB
    #: If this many different peers fail within this many seconds, this node suspects its own network (DESIGN 3.3).
    own_fault_peers: int = 3
    own_fault_s: float = 10.0

    @property
    def ranked(self) -> int:
        """How many peers a job may try, reachable or not."""
        return self.asked + self.unreached


class AdmissionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job at the worker (``admission``); bounds from DESIGN 3.1."""

    queue: int = 64
    #: Running and waiting jobs of one peer: one gateway may serve many users (guess).
    per_peer: int = 64
    body_bytes: int = 8 * KIB * KIB
    output_bytes: int = 256 * KIB
    beat_s: float = 2.0
    stalled_reader_s: float = 30.0


class NodeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All machines of a node."""

    gossip: GossipSettings = GossipSettings()
    neighbours: NeighbourSettings = NeighbourSettings()
    pool: LinkPoolSettings = LinkPoolSettings()
    liveness: LivenessSettings = LivenessSettings()
    dht: DhtSettings = DhtSettings()
    connections: ConnectionSettings = ConnectionSettings()
    penalties: PenaltySettings = PenaltySettings()
    link: LinkSettings = LinkSettings()
    cascade: CascadeSettings = CascadeSettings()
    admission: AdmissionSettings = AdmissionSettings()


_WAN: Final = NodeSettings()
_LAN: Final = NodeSettings(
    gossip=GossipSettings(tick_s=0.5, load_period_s=2.0),
    liveness=LivenessSettings(period_s=5.0),
    dht=DhtSettings(query_s=1.0),
    connections=ConnectionSettings(dial_again_s=15.0),
    neighbours=NeighbourSettings(redial_most_s=15.0),
)
_TEST: Final = NodeSettings(
    gossip=GossipSettings(tick_s=0.1, digest_s=2.0, load_period_s=0.5, load_ttl_periods=16.0, budget_bytes_s=64 * KIB),
    neighbours=NeighbourSettings(redial_first_s=0.1, redial_most_s=1.0, rotate_s=30.0),
    liveness=LivenessSettings(period_s=0.5),
    dht=DhtSettings(query_s=0.5, refresh_s=30.0),
    connections=ConnectionSettings(dial_again_s=1.0),
    link=LinkSettings(ping_s=0.5, dead_s=2.0),
    cascade=CascadeSettings(
        accept_s=1.0, first_token_s=2.0, frame_s=2.0, progress_window_s=4.0, total_s=60.0, pace_window_s=2.0
    ),
    admission=AdmissionSettings(beat_s=0.5, stalled_reader_s=5.0),
)

#: Named sets of settings, for ``--profile``.
PROFILES: Final[dict[str, NodeSettings]] = {"wan": _WAN, "lan": _LAN, "local": _LAN, "test": _TEST}
