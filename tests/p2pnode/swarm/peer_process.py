"""A peer in a process of its own, to be killed and frozen: prints its addresses, then answers jobs until it dies."""

from __future__ import annotations

import sys

import trio

from p2pnode.swarm.peerlink import Channel
from protocol.wire.messages import DELTA
from tests.p2pnode.swarm.idle_machine import real_net, running


async def drip(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
    while True:
        await channel.send(DELTA, b"x" * 100)
        await trio.sleep(0.01)


async def main(number: int) -> None:
    net = real_net(number)
    async with running(net, on_job=drip):
        print(" ".join(net.addrs()), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
