"""What thirty nodes at rest say to each other: bytes on the links, counted on the encoded frames."""

from __future__ import annotations

from pathlib import Path

from tests.bench.row import Row
from tests.protocol.harness import MemoryNetwork

NODES = 30
#: Seconds for the network to settle, then the seconds that are counted (virtual).
SETTLE_S, COUNT_S = 110, 300


def at_rest(_: Path) -> list[Row]:
    """KiB/s up per node, gossip alone and with the DHT."""
    network = MemoryNetwork()
    network.grow(NODES)
    network.run(SETTLE_S)
    assert network.converged()
    before = [(member.gossip_bytes, member.bytes_out) for member in network.members]
    network.run(COUNT_S)
    gossip = [
        (member.gossip_bytes - bytes_before) / COUNT_S / 1024
        for member, (bytes_before, _) in zip(network.members, before, strict=True)
    ]
    total = [
        (member.bytes_out - bytes_before) / COUNT_S / 1024
        for member, (_, bytes_before) in zip(network.members, before, strict=True)
    ]
    mean, most = sum(gossip) / NODES, max(gossip)
    how = f"busiest node {most:.1f}; with the DHT {sum(total) / NODES:.1f}; profile wan, {COUNT_S} s of virtual time"
    return [Row(f"gossip of {NODES} nodes at rest", "≤ 8 KiB/s per node", f"{mean:.1f} KiB/s", most <= 8, how)]
