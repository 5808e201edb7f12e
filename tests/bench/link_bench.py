"""One link between two processes over Noise and yamux: how fast, at what cost.  Prints one JSON object.

``python tests/bench/link_bench.py [--seconds 3]``; called by ``make bench``.  The child process is the worker: it
answers each job as its REQ asks (``count`` frames of ``size`` bytes, ``pause`` ms apart).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import trio  # noqa: E402

from p2pnode.swarm.libp2p import Libp2pNet  # noqa: E402
from p2pnode.swarm.net import LinkBroken  # noqa: E402
from p2pnode.swarm.peerlink import Channel, PeerLink  # noqa: E402
from protocol.errors import RemoteProtocolError  # noqa: E402
from protocol.settings import LinkSettings  # noqa: E402
from protocol.wire.messages import DELTA, END, REQ, Hello  # noqa: E402

SETTINGS = LinkSettings(channels=1024)
ASK = struct.Struct("!IIIB")  # count, size, pause in ms, whether to end
JOBS = 50
FRAME_BYTES = 100
HELLO = Hello(protocol=1, network="bench")


class Owner:
    """Answers jobs (worker) or none (entry)."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def on_message(self, link: PeerLink, kind: int, payload: bytes) -> None:
        raise AssertionError(kind)

    def take_message(self, link: PeerLink, kind: int, payload: bytes) -> bool:
        raise AssertionError(kind)

    def on_channel(self, link: PeerLink, channel: Channel) -> None:
        self._nursery.start_soon(answer, channel)

    def on_rtt(self, link: PeerLink, seconds: float) -> None:
        pass

    def on_fault(self, link: PeerLink, error: RemoteProtocolError) -> None:
        raise error


async def answer(channel: Channel) -> None:
    """What the worker does with a job."""
    count, size, pause_ms, ends = ASK.unpack((await channel.receive())[0][1])
    payload = b"x" * size
    due = trio.current_time()
    for _ in range(count):
        if pause_ms:
            due += pause_ms / 1000
            await trio.sleep_until(due)
        await channel.send(DELTA, payload)
    if ends:
        await channel.send(END, b"")
        channel.close()


def cpu_s(pid: int | None = None) -> float:
    """User and system seconds of a process so far (Linux)."""
    fields = Path(f"/proc/{pid or os.getpid()}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int | None = None) -> int:
    """Resident memory of a process (Linux)."""
    return int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def ask(link: PeerLink, count: int, size: int, pause_ms: int = 0) -> int:
    """One job from the entry's side; gives the number of frames that came."""
    channel = link.open()
    await channel.send(REQ, ASK.pack(count, size, pause_ms, 1))
    frames = 0
    while True:
        for kind, _ in await channel.receive():
            if kind == END:
                channel.close()
                return frames
            frames += 1


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
            nursery.start_soon(serve, PeerLink(await net.accept(), SETTINGS), Owner(nursery))


async def measure_round_trips(link: PeerLink, count: int) -> dict[str, float]:
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await ask(link, 1, FRAME_BYTES)
        times.append((time.perf_counter() - begun) * 1e3)
    times.sort()
    return {"request_ms_p50": round(statistics.median(times), 3), "request_ms_p99": round(times[int(count * 0.99)], 3)}


async def measure_jobs(link: PeerLink, pid: int, count: int, pause_ms: int) -> dict[str, float]:
    """``JOBS`` jobs at once, each of ``count`` frames."""
    mine, theirs, begun = cpu_s(), cpu_s(pid), time.perf_counter()
    total = 0

    async def one() -> None:
        nonlocal total
        frames = await ask(link, count, FRAME_BYTES, pause_ms)
        total += frames

    async with trio.open_nursery() as nursery:
        for _ in range(JOBS):
            nursery.start_soon(one)
    wall = time.perf_counter() - begun
    return {
        "frames_s": round(total / wall),
        "entry_cpu_percent": round(100 * (cpu_s() - mine) / wall, 1),
        "worker_cpu_percent": round(100 * (cpu_s(pid) - theirs) / wall, 1),
    }


async def measure_idle(link: PeerLink, pid: int, count: int) -> dict[str, float]:
    gc.collect()
    before = rss_bytes(), rss_bytes(pid)
    held = [link.open() for _ in range(count)]
    for channel in held:
        await channel.send(REQ, ASK.pack(1, FRAME_BYTES, 0, 0))
    for channel in held:
        await channel.receive()
    gc.collect()
    after = rss_bytes(), rss_bytes(pid)
    for channel in held:
        channel.reset()
    return {
        "entry_kb_each": round((after[0] - before[0]) / count / 1e3, 2),
        "worker_kb_each": round((after[1] - before[1]) / count / 1e3, 2),
    }


async def entry(seconds: float) -> None:
    child = subprocess.Popen([sys.executable, __file__, "--worker"], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert child.stdout is not None
    address = child.stdout.readline().strip()
    net = Libp2pNet(b"e" * 32, ["/ip4/127.0.0.1/tcp/0"])
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(net.run)
            dials = []
            for _ in range(10):
                begun = time.perf_counter()
                stream = await net.dial(None, (address.split("/p2p/")[0],))
                dials.append((time.perf_counter() - begun) * 1e3)
                await stream.aclose()
            link = PeerLink(await net.dial(None, (address,)), SETTINGS)
            await link.greet(HELLO)
            nursery.start_soon(link.run, Owner(nursery))
            await ask(link, 1000, FRAME_BYTES)
            report: dict[str, object] = {"dial_unknown_ms_p50": round(statistics.median(dials), 2)}
            report |= await measure_round_trips(link, 500)
            rate = (await measure_jobs(link, child.pid, 400, 0))["frames_s"]
            full = await measure_jobs(link, child.pid, max(400, int(rate * seconds / JOBS)), 0)
            report["full_rate"] = full
            report["paced_50x50"] = await measure_jobs(link, child.pid, int(50 * seconds), 20)
            report["idle_1000"] = await measure_idle(link, child.pid, 1000)
            print(json.dumps(report))
            nursery.cancel_scope.cancel()
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    trio.run(worker) if arguments.worker else trio.run(entry, arguments.seconds)
