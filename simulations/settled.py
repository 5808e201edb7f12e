"""A network as it is after hours of running: full views, standing links, phases spread.

For questions that joining would drown.  The nodes are the same, their views hold real statements, their links are real;
only the road there is skipped.  Who calls it: ``world``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.signing import ADVERT, LOAD
from simulations.dice import dice

if TYPE_CHECKING:
    from simulations.peer import Peer
    from simulations.world import World


def settle(world: World) -> None:
    """Start everybody, let everybody know as many as fit, and link everybody to a few."""
    peers, die = world.peers, dice(world.seed, "settle")
    for peer in peers:
        peer.start(())
    statements = [
        envelope
        for peer in peers
        for envelope in (peer.node.gossip.own(ADVERT), peer.node.gossip.own(LOAD))
        if envelope is not None
    ]
    room = world.scenario.node.gossip.view_size
    for peer in peers:
        if 2 * room >= len(statements):
            heard = statements
        else:
            heard = [
                statement for at in die.sample(range(len(peers)), room) for statement in statements[2 * at : 2 * at + 2]
            ]
        peer.node.gossip.learn(heard, 0.0)
        peer.node.gossip.take_news()
    _link(world, peers)


def _link(world: World, peers: list[Peer]) -> None:
    """A random regular graph, nearly: everybody dials half as many as it wants."""
    die = dice(world.seed, "links")
    half = max(1, world.scenario.node.neighbours.target // 2)
    spread = world.scenario.topology.join_s
    for peer in peers:
        others = die.sample(peers, min(len(peers), half + 1))
        for other in [each for each in others if each is not peer][:half]:
            when = spread * die.random()
            world.kernel.at(when, peer.perform_dial, other.peer_id, (other.addr,))
