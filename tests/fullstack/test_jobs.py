"""Jobs through real daemons in virtual time: when the first token comes, who stops when nobody reads or all hang up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from p2pnode.engine.base import CHAT, EngineJob
from p2pnode.engine.mock import MockEngine
from p2pnode.engine.selection import MOCK_MODEL
from protocol.perf.gpu_catalog import find_gpu
from protocol.settings import PROFILES
from tests.fullstack.client import Heard, chat, get, request, streamed
from tests.fullstack.daemons import Daemons, Member, daemons, in_virtual_time
from tests.fullstack.virtualnet import VirtualNet

pytestmark = pytest.mark.slow

WAN = PROFILES["wan"]
#: Seconds of virtual time that the drivers may add to what engine and network take: their timers, and nothing else.
ADDED_S = 0.005
FAST = {"P2PNODE_MOCK_SPEED": "50"}


async def entry_and_worker(all_of_them: Daemons, environ: dict[str, str] | None = None) -> tuple[Member, Member]:
    """A node without an engine, and one with, that know each other."""
    entry = await all_of_them.add(engine="none")
    worker = await all_of_them.add(environ=environ)
    await all_of_them.settle()
    return entry, worker


async def alone(tokens: int) -> tuple[float, float]:
    """Seconds to the first piece and to the end, of an engine that nothing stands before."""
    gpu = find_gpu("RTX 4090")
    assert gpu is not None
    engine = MockEngine([MOCK_MODEL], gpu)
    body = json.dumps(chat(tokens)).encode()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        began = trio.current_time()
        async with engine.open(EngineJob(CHAT, MOCK_MODEL.name, body, True, "", 20, tokens)) as reply:
            pieces = await reply.receive()
            while not any(json.loads(piece)["choices"][0]["delta"].get("content") for piece in pieces):
                pieces = await reply.receive()
            first = trio.current_time() - began
            while await reply.receive():
                pass
        nursery.cancel_scope.cancel()
        return first, trio.current_time() - began


def idle(worker: Member) -> bool:
    """Whether nothing of any job is left at a worker."""
    daemon = worker.daemon
    assert daemon.engine is not None
    assert daemon.worker.slots is not None
    return not (daemon.worker.running or daemon.worker.slots.running or daemon.engine.load().running)


async def until_idle(worker: Member, within_s: float) -> float:
    began = trio.current_time()
    with trio.fail_after(within_s):
        while not idle(worker):  # noqa: ASYNC110
            await trio.sleep(0.001)
    return trio.current_time() - began


@pytest.mark.parametrize("one_way_s", [0.0, 0.02, 0.15])
def test_the_first_token_takes_the_engine_and_one_round_trip(one_way_s: float, tmp_path: Path) -> None:
    @in_virtual_time
    async def run() -> None:
        async with daemons(0, tmp_path, net=VirtualNet(one_way_s)) as all_of_them:
            entry, worker = await entry_and_worker(all_of_them)
            first, whole = await alone(40)
            for asked, trips in ((worker, 0), (entry, 2), (entry, 2)):
                heard = await streamed(all_of_them.net, asked, chat(40))
                assert heard.pieces == 40
                assert heard.ttft_s == pytest.approx(first + trips * one_way_s, abs=ADDED_S)
                assert heard.ended - heard.began == pytest.approx(whole + trips * one_way_s, abs=ADDED_S)

    run()


@in_virtual_time
async def test_a_whole_answer_and_the_pages_come_over_the_virtual_network(tmp_path: Path) -> None:
    async with daemons(0, tmp_path, net=VirtualNet(0.02)) as all_of_them:
        entry, worker = await entry_and_worker(all_of_them)
        async with request(all_of_them.net, entry, body=chat(30, stream=False)) as reply:
            answer = json.loads(await reply.body())
        assert reply.status == 200
        assert answer["usage"]["completion_tokens"] == 30
        status = await get(all_of_them.net, entry, "/v1/p2p/status")
        assert (status["ready"], status["peers"]["alive"], status["problems"]) == (True, 1, [])
        assert {peer["state"] for peer in (await get(all_of_them.net, worker, "/v1/p2p/peers"))["data"]} == {"alive"}


@in_virtual_time
async def test_who_hangs_up_frees_the_workers_place_one_way_later(tmp_path: Path) -> None:
    async with daemons(0, tmp_path, net=VirtualNet(0.05)) as all_of_them:
        entry, worker = await entry_and_worker(all_of_them)
        async with request(all_of_them.net, entry, body=chat(4000)) as reply:
            await reply.event()
            assert not idle(worker)
        assert await until_idle(worker, 1.0) == pytest.approx(0.05, abs=ADDED_S)
        # And before the first token: nothing of the answer has come yet.
        with trio.move_on_after(0.07):
            await streamed(all_of_them.net, entry, chat(4000))
        assert not idle(worker)
        assert await until_idle(worker, 1.0) <= 0.05 + ADDED_S
        assert not entry.daemon.book.running


@in_virtual_time
async def test_a_client_that_does_not_read_stops_the_engine_and_may_go_on(tmp_path: Path) -> None:
    net = VirtualNet(0.02, window=32 * 1024)
    async with daemons(0, tmp_path, net=net) as all_of_them:
        entry, worker = await entry_and_worker(all_of_them, FAST)
        tokens = 7000
        async with request(net, entry, body=chat(tokens)) as reply:
            await trio.sleep(5)
            sent = net.bytes_out[worker.host]
            await trio.sleep(15)
            # Pings and gossip only: the engine's next token waits for the reader.
            assert net.bytes_out[worker.host] - sent < 8 * 1024
            assert not idle(worker)
            held = WAN.link.credit_bytes + WAN.admission.output_bytes + 3 * net.window
            assert sent < held
            contents = 0
            while event := await reply.event():
                contents += sum(bool(choice["delta"].get("content")) for choice in event.get("choices", ()))
        assert contents == tokens
        assert net.bytes_out[worker.host] > 2 * sent
        await until_idle(worker, 1.0)


@in_virtual_time
async def test_a_client_that_never_reads_again_loses_its_place(tmp_path: Path) -> None:
    net = VirtualNet(0.02, window=32 * 1024)
    async with daemons(0, tmp_path, net=net) as all_of_them:
        entry, worker = await entry_and_worker(all_of_them, FAST)
        async with request(net, entry, body=chat(7000)):
            took = await until_idle(worker, 60.0)
            assert took == pytest.approx(30.0, abs=5.0)  # the bound on a write without progress
            assert not entry.daemon.book.running


@in_virtual_time
async def test_a_partition_in_the_middle_is_told_by_the_cascades_deadline(tmp_path: Path) -> None:
    async with daemons(0, tmp_path, net=VirtualNet(0.02)) as all_of_them:
        entry, worker = await entry_and_worker(all_of_them)
        last = 0.0
        async with request(all_of_them.net, entry, body=chat(4000)) as reply:
            count = 0
            while (event := await reply.event()) and "error" not in event:
                count, last = count + 1, trio.current_time()
                if count == 20:
                    all_of_them.net.cut(entry.host, worker.host)
            assert event is not None
            assert event["error"]["code"] == "peer_failed"
            # Beats and tokens stopped at the cut.
            assert trio.current_time() - last == pytest.approx(WAN.cascade.frame_s, abs=0.1)
        # The worker writes into the void until its link is dead.
        assert await until_idle(worker, 60) <= WAN.link.dead_s + WAN.link.ping_s


@in_virtual_time
async def test_who_cannot_reach_the_first_peer_gets_the_whole_answer_of_another(tmp_path: Path) -> None:
    async with daemons(0, tmp_path, net=VirtualNet(0.02)) as all_of_them:
        entry, gone = await entry_and_worker(all_of_them)
        await all_of_them.add()
        await all_of_them.settle()
        all_of_them.net.cut(entry.host, gone.host)
        answers: list[Heard] = []

        async def ask(number: int) -> None:
            answers.append(await streamed(all_of_them.net, entry, chat(20, user=f"{number} ")))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(ask, number)
        assert [heard.pieces for heard in answers] == [20] * 8
        second = [heard for heard in answers if heard.attempts == 2]
        assert second, "nobody asked the unreachable one first"
        for heard in second:
            assert heard.ttft_s == pytest.approx(WAN.cascade.accept_s, abs=0.5)
        assert all(heard.ttft_s < 0.5 for heard in answers if heard.attempts == 1)
