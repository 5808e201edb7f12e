"""What one message between two nodes costs both of them in CPU, and what a link does.  Prints one JSON object.

``python -m tests.bench.link_costs``; called by ``costs``.  Messages leave one by one, with a pause, as gossip's do:
what fifty of them cost in one write would be too good to be true.  Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import trio

from p2pnode.swarm.libp2p import Libp2pNet
from p2pnode.swarm.net import LinkBroken
from p2pnode.swarm.peerlink import PeerLink
from protocol.wire.messages import DhtStore
from tests.bench.link_bench import HELLO, SETTINGS, Owner

#: Messages of a round, the pause between two, and rounds; the median of the rounds is given.
MESSAGES, PAUSE_S, ROUNDS = 300, 0.002, 5
#: Bytes of a small message, and of a large one.
SMALL, LARGE = 100, 50_000
#: Links made in a round.
DIALS = 20


class Sink(Owner):
    """Takes messages and does nothing with them."""

    def take_message(self, link: PeerLink, kind: int, payload: bytes) -> bool:
        return True


def cpu_s(pid: int) -> float:
    """Seconds on a processor so far, of the only thread that works (Linux; exact to nanoseconds)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def serve(link: PeerLink, owner: Owner) -> None:
    with suppress(LinkBroken):
        await link.greet(HELLO)
        await link.run(owner)


async def worker() -> None:
    net = Libp2pNet(b"w" * 32, ["/ip4/127.0.0.1/tcp/0"])
    async with trio.open_nursery() as nursery:
        await nursery.start(net.run)
        print(net.addrs()[0], flush=True)
        while True:
            nursery.start_soon(serve, PeerLink(await net.accept(), SETTINGS), Sink(nursery))


async def messages(link: PeerLink, size: int, pid: int) -> float:
    """CPU seconds of both ends for one message of so many bytes; what they pay for being there is taken off."""
    value = DhtStore(bytes(32), bytes(size))

    async def round_of(post: bool) -> float:
        mine, theirs = time.process_time(), cpu_s(pid)
        for _ in range(MESSAGES):
            if post:
                link.post(value)
            await trio.sleep(PAUSE_S)
        return time.process_time() - mine + cpu_s(pid) - theirs

    return (await round_of(post=True) - await round_of(post=False)) / MESSAGES


async def dials(net: Libp2pNet, address: str, pid: int) -> float:
    """CPU seconds of both ends for one link, HELLO included."""
    mine, theirs = time.process_time(), cpu_s(pid)
    for _ in range(DIALS):
        link = PeerLink(await net.dial(None, (address,)), SETTINGS)
        await link.greet(HELLO)
        link.stop("measured")
        await trio.sleep(PAUSE_S)
    return (time.process_time() - mine + cpu_s(pid) - theirs) / DIALS


async def entry() -> None:
    child = subprocess.Popen([sys.executable, "-m", __spec__.name, "--worker"], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert child.stdout is not None
    address = child.stdout.readline().strip()
    net = Libp2pNet(b"e" * 32, ["/ip4/127.0.0.1/tcp/0"])
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(net.run)
            connects = [await dials(net, address, child.pid) for _ in range(ROUNDS)]
            await trio.sleep(0.5)
            link = PeerLink(await net.dial(None, (address,)), SETTINGS)
            await link.greet(HELLO)
            nursery.start_soon(link.run, Sink(nursery))
            small = statistics.median([await messages(link, SMALL, child.pid) for _ in range(ROUNDS)])
            large = statistics.median([await messages(link, LARGE, child.pid) for _ in range(ROUNDS)])
            byte = max(0.0, (large - small) / (LARGE - SMALL))
            found = {"message_s": small - SMALL * byte, "byte_s": byte, "dial_s": statistics.median(connects) / 2}
            print(json.dumps(found))
            nursery.cancel_scope.cancel()
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    trio.run(worker if "--worker" in sys.argv else entry)
