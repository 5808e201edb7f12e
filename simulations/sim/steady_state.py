"""A network as it is after hours of running: full views, standing links, a filled DHT, phases spread.

It serves scenarios that do not study joining.  Simulating the joins would cost more than the rest of such a run, so
they are skipped.  The machines are restored to the state that hours of running would produce:

* statements of every age, with the ttl of a network of this size, due again according to their age;
* known seeds, with the next query due later; neighbours due to be replaced, buckets due to be refreshed;
* byte budgets as if no node had joined for long: the cost of the links made here is forgiven;
* routing tables with the closest nodes and a few of all others; statements in the DHT with the nodes closest to their
  keys.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from protocol.dht.own_records import OwnRecord
from protocol.dht.record_store import record_key
from protocol.dht.routing_table import as_number, peer_key
from protocol.ids import ModelId, PeerId, name_key
from protocol.membership.overlay import Seed
from protocol.statements.adverts import Provider
from protocol.statements.envelope import Envelope, statement
from protocol.statements.keys import ADVERT, LOAD
from protocol.subnet import network_group
from simulations.rng_streams import numpy_rng_stream, rng_stream
from simulations.sim.cluster import Cluster
from simulations.sim.node import SimNode

#: Contacts of a routing table beyond the closest (a table of 10,000 nodes has about ten buckets of 20 in use).
FAR: Final = 160
#: Seconds after the last link until its first exchange is over.
RESTED_S: Final = 10.0
#: The leading bytes of a key that decide who is close: more than enough for ten thousand nodes.
_LEADING: Final = 8


def settle(cluster: Cluster) -> None:
    """Start all nodes, fill their views and the DHT, and link each node to a few others."""
    peers = cluster.peers
    for peer in peers:
        peer.start(())
    for peer in peers:
        _spread_phases(cluster, peer)
    stated = [_stated(cluster, peer) for peer in peers]
    _fill_views(cluster, stated)
    _fill_dht(cluster)
    _link(cluster)


def _spread_phases(cluster: Cluster, peer: SimNode) -> None:
    """Spread the timers, so that the nodes do not all replace a neighbour or ask a seed at the same time."""
    rng, rotate_s = rng_stream(cluster.seed, "rotate", peer.index), peer.settings.neighbours.rotate_s
    peer.postpone(("neighbours", "rotate"), rotate_s * rng.random())
    peer.postpone(("dht", "upkeep"), peer.node.dht.upkeep_s * rng_stream(cluster.seed, "upkeep", peer.index).random())
    seeds = [
        Seed(seed, addrs, next_at=rotate_s * rng.random()) for seed, addrs in cluster.seeds if seed != peer.peer_id
    ]
    peer.node.overlay.restore_seeds(seeds)


def _stated(cluster: Cluster, peer: SimNode) -> list[Envelope]:
    """Its advert and its load, as old as they may be now, due when they are too old."""
    rng = rng_stream(cluster.seed, "phase", peer.index)
    ages = {ADVERT: rng.random(), LOAD: rng.random()}
    return peer.node.gossip.resume(peer.make_load(), ages, len(cluster.peers), 0.0)


def _fill_views(cluster: Cluster, stated: list[list[Envelope]]) -> None:
    rng, room = rng_stream(cluster.seed, "settle"), cluster.scenario.node.gossip.view_size
    everybody = [envelope for envelopes in stated for envelope in envelopes]
    for peer in cluster.peers:
        heard = everybody
        if room < len(stated):
            heard = [envelope for at in rng.sample(range(len(stated)), room) for envelope in stated[at]]
        peer.node.gossip.learn(heard, 0.0)


# --- the DHT -------------------------------------------------------------------------------------------------------


def _fill_dht(cluster: Cluster) -> None:
    peers, settings = cluster.peers, cluster.scenario.node.dht
    numbers = np.array([_leading(peer_key(peer.peer_id)) for peer in peers], np.uint64)
    rng, refreshed = numpy_rng_stream(cluster.seed, "tables"), rng_stream(cluster.seed, "refreshed")
    for peer in peers:
        near = _closest(numbers, peer_key(peer.peer_id), 2 * settings.k)
        far = rng.integers(0, len(peers), min(FAR, len(peers)))
        for at in (*near, *far.tolist()):
            other = peers[at]
            peer.node.dht.table.seen(other.peer_id, other.addrs, network_group(other.address), 0.0)
        peer.node.dht.table.restore(lambda: -settings.refresh_s * refreshed.random())
    for peer in peers:
        advert = peer.node.gossip.own(ADVERT)
        if advert is not None:
            _place(cluster, peer, advert, numbers)
        for provider in _providers(peer, settings.provider_ttl_s):
            _place(cluster, peer, provider, numbers)
        phase = rng_stream(cluster.seed, "republish", peer.index).random() * settings.republish_s
        peer.postpone(("node", "publish"), phase)


def _providers(peer: SimNode, ttl_s: int) -> list[Envelope]:
    assert peer.advert is not None, "a node that has started has advertised"
    keys = [key for offer in peer.advert.models for key in (ModelId(offer.fingerprint), name_key(offer.name))]
    version, addrs = (peer.node.gossip.publisher.inc, 0), peer.advert.addrs
    return [statement(peer.signer, Provider(key, addrs), version, peer.wall(), ttl_s) for key in dict.fromkeys(keys)]


def _place(cluster: Cluster, author: SimNode, envelope: Envelope, numbers: np.ndarray) -> None:
    """Give a statement to those whose keys are closest to where it belongs."""
    key, settings = record_key(envelope), cluster.scenario.node.dht
    replicas: dict[PeerId, int] = {}
    for at in _closest(numbers, key, settings.k):
        home = cluster.peers[at]
        if home is not author:
            replicas[home.peer_id] = as_number(peer_key(home.peer_id)) ^ as_number(key)
            home.node.dht.records.put(key, envelope, network_group(author.address), 0.0, float(envelope.ttl))
    placed = -rng_stream(cluster.seed, "placed", author.index).random() * settings.republish_s
    own = OwnRecord(envelope, key, float(envelope.ttl), replicas, max(1, len(replicas) // 2), placed)
    author.node.dht.own.restore([own])


def _leading(key: bytes) -> int:
    return int.from_bytes(key[:_LEADING], "big")


def _closest(numbers: np.ndarray, key: bytes, count: int) -> list[int]:
    """Places of those with the smallest distance to ``key``."""
    distances = numbers ^ np.uint64(_leading(key))
    places = np.argpartition(distances, count)[:count] if count < len(distances) else np.arange(len(distances))
    found: list[int] = places[np.argsort(distances[places])].tolist()
    return found


# --- links ---------------------------------------------------------------------------------------------------------


def _link(cluster: Cluster) -> None:
    """A random regular graph, nearly: every node dials half of its target."""
    peers, rng = cluster.peers, rng_stream(cluster.seed, "links")
    half = max(1, cluster.scenario.node.neighbours.target // 2)
    spread = cluster.scenario.topology.join_s
    for peer in peers:
        peer.node.dht.has_joined = True
        others = rng.sample(peers, min(len(peers), half + 1))
        for other in [each for each in others if each is not peer][:half]:
            when = spread * rng.random()
            cluster.loop.at(when, peer.perform_dial, other.peer_id, other.addrs)
        cluster.loop.at(spread + 1.0, _joined, peer, peer.life)
        cluster.loop.at(spread + RESTED_S, _rested, peer, peer.life)


def _joined(peer: SimNode, life: int) -> None:
    """It has its links; a first one after it has lost them all is a first one again."""
    if peer.up and peer.life == life:
        peer.node.dht.has_joined = False


def _rested(peer: SimNode, life: int) -> None:
    """The cost of its links is long paid, and the budget for newcomers is full again."""
    if peer.up and peer.life == life:
        peer.node.gossip.budget.rest()
