"""Jobs over real links of real swarms, on a network in memory: the whole way but the engine and HTTP."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2pnode.jobs.dispatch import Dispatch
from p2pnode.jobs.records import JobBook, JobFailed
from p2pnode.jobs.worker import Worker
from p2pnode.swarm.swarm import Swarm
from protocol import PROTOCOL_VERSION
from protocol.node import Node
from protocol.statements.adverts import Advert, Load
from protocol.statements.envelope import statement
from tests.fakes import MemorySwitch
from tests.p2pnode.jobs.fake_workers import (
    SETTINGS,
    Script,
    ScriptedEngine,
    chat,
    everything,
    ordered,
    piece,
    signer,
    spec,
)

BIG = piece("x" * 15_000)


class Ends:
    """An entry and its workers, linked."""

    def __init__(self, switch: MemorySwitch, nursery: trio.Nursery) -> None:
        self.switch = switch
        self.nursery = nursery
        self.book = JobBook()
        self.workers: list[Worker] = []
        self.swarms: list[Swarm] = []
        self.entry = self.swarm(100, ScriptedEngine())
        self.dispatch = Dispatch(self.entry, None, "least-loaded", SETTINGS, random.Random(1), self.book)
        self.engines: dict[int, ScriptedEngine] = {}

    def swarm(self, number: int, engine: ScriptedEngine) -> Swarm:
        key = signer(number)
        node = Node(key, SETTINGS, random.Random(number), 1, ())
        worker = Worker(engine, key, SETTINGS)
        swarm = Swarm(self.switch.net(key.peer_id), node, SETTINGS, "test", worker.on_job)
        self.workers.append(worker)
        self.swarms.append(swarm)
        return swarm

    async def worker(self, number: int, script: Script) -> ScriptedEngine:
        engine = ScriptedEngine(script)
        swarm = self.swarm(number, engine)
        await self.nursery.start(swarm.run)
        advert = Advert(PROTOCOL_VERSION, name=f"w{number}", models=engine.offers(), addrs=swarm.addrs)
        now = trio.current_time()
        for value in (advert, Load(slots=4)):
            self.entry.view.put(statement(signer(number), value, (1, 1), 1e9, 120), value, now, now + 1e6)
        return engine


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    async with trio.open_nursery() as nursery:
        both = Ends(MemorySwitch(random.Random(3), delay=0.01), nursery)
        await nursery.start(both.entry.run)
        yield both
        nursery.cancel_scope.cancel()


async def test_a_stream_and_a_long_body_both_ways(autojump_clock: object) -> None:
    async with ends() as both:
        engine = await both.worker(1, Script([[BIG] * 10] * 10))
        body = chat()[:-1] + b',"user":"' + b"x" * 1_500_000 + b'"}'
        async with both.dispatch.submit(spec(body=body, max_tokens=100)) as answer:
            assert await everything(answer) == b"|".join([BIG] * 100)
        assert len(engine.jobs[0].body) > len(body)
        assert both.book.get("req_1").state == "completed"


async def test_a_crash_in_the_middle_is_an_error_and_the_next_peer_serves(autojump_clock: object) -> None:
    async with ends() as both:
        await both.worker(1, Script([[piece("a")]] * 100, pause_s=1))
        await both.worker(2, Script([[piece("b")]]))
        async with both.dispatch.submit(ordered("w1", "w2")) as answer:
            await answer.receive()
            both.switch.crash(signer(1).peer_id)
            with pytest.raises(JobFailed) as caught:
                await everything(answer)
        assert (caught.value.status, caught.value.code) == (502, "peer_failed")
        async with both.dispatch.submit(ordered("w1", "w2", number=2)) as answer:
            assert await everything(answer) == piece("b")
            assert answer.attempts == 2


async def test_a_peer_that_freezes_in_the_middle_is_cut(autojump_clock: object) -> None:
    async with ends() as both:
        await both.worker(1, Script([[piece("a")]] * 100, pause_s=1))
        began = trio.current_time()
        async with both.dispatch.submit(spec()) as answer:
            await answer.receive()
            both.switch.freeze(signer(1).peer_id)
            with pytest.raises(JobFailed):
                await everything(answer)
        assert trio.current_time() - began < 10
        both.switch.thaw()


async def test_leaving_reaches_the_far_engine_within_a_second(autojump_clock: object) -> None:
    async with ends() as both:
        engine = await both.worker(1, Script([[piece("a")]] * 1000, pause_s=0.2))
        async with both.dispatch.submit(spec()) as answer:
            await answer.receive()
        await trio.sleep(1)
        assert engine.open_now == 0


async def test_a_caller_that_does_not_read_holds_up_nobody_else(autojump_clock: object) -> None:
    async with ends() as both:
        engine = await both.worker(1, Script([[BIG]] * 1000, pause_s=0.001))
        async with both.dispatch.submit(spec(1)) as stuck:
            await stuck.receive()
            await trio.sleep(5)
            held = engine.given
            assert held * len(BIG) < 900_000
            engine.script = Script([[piece("b")]])
            async with both.dispatch.submit(spec(2)) as answer:
                assert await everything(answer) == piece("b")


@pytest.mark.slow
async def test_a_thousand_cancellations_at_any_moment_leave_nothing_behind(autojump_clock: object) -> None:
    dice = random.Random(11)
    ended: Counter[str] = Counter()

    async def one(both: Ends, number: int) -> None:
        body = chat()[:-1] + b',"user":"' + b"x" * dice.choice((0, 0, 1_000, 600_000)) + b'"}'
        stays_s = dice.uniform(0.0, 1.5)
        with trio.move_on_after(stays_s) as patience:
            try:
                async with both.dispatch.submit(spec(number, body=body)) as answer:
                    await everything(answer)
                ended["completed"] += 1
            except JobFailed as failed:
                ended[failed.code] += 1
        ended["left"] += patience.cancelled_caught

    async def user(both: Ends, numbers: range) -> None:
        for number in numbers:
            await one(both, number)

    async with ends() as both:
        engines = [await both.worker(number, Script([[BIG]] * 5, first_s=0.2, pause_s=0.1)) for number in (1, 2, 3)]
        async with trio.open_nursery() as users:
            for first in range(1, 1001, 50):
                users.start_soon(user, both, range(first, first + 50))
        await trio.sleep(2)
        assert ended["left"] > 500
        assert ended["completed"] > 50
        assert ended.total() == 1000
        assert [engine.open_now for engine in engines] == [0, 0, 0]
        for worker in both.workers:
            assert (worker.running, worker.slots.running, worker.slots.waiting) == (0, 0, 0)
        assert not any(link["channels"] for swarm in both.swarms for link in swarm.links())
        assert [record.inflight for record in both.entry.view.records()] == [0] * 4
        assert both.book.running == 0
        async with both.dispatch.submit(spec(2000)) as answer:
            assert await everything(answer) == b"|".join([BIG] * 5)
