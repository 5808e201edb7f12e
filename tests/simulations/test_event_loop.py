"""The event loop: order, time, digest."""

from __future__ import annotations

from simulations.event_loop import EventLoop
from simulations.rng_streams import numpy_rng_stream, rng_stream


def test_things_happen_in_the_order_of_time_then_of_their_scheduling() -> None:
    loop, seen = EventLoop(), []
    loop.at(2.0, seen.append, "late")
    loop.at(1.0, seen.append, "first")
    loop.at(1.0, seen.append, "second")
    loop.run(1.5)
    assert seen == ["first", "second"]
    assert (loop.now, loop.events, loop.pending) == (1.5, 2, 1)
    loop.run(5.0)
    assert seen == ["first", "second", "late"]
    assert loop.now == 5.0


def test_the_past_is_now() -> None:
    loop, seen = EventLoop(), []
    loop.run(3.0)
    loop.at(1.0, lambda: seen.append(loop.now))
    loop.run(4.0)
    assert seen == [3.0]


def test_it_can_be_stopped_after_an_event() -> None:
    loop, seen = EventLoop(), []
    loop.at(1.0, loop.stop)
    loop.at(2.0, seen.append, "never")
    loop.run(9.0)
    assert (seen, loop.now) == ([], 1.0)


def test_the_digest_is_of_every_event() -> None:
    def digest(*times: float) -> str:
        loop = EventLoop()
        for time in times:
            loop.at(time, int)
        loop.run(10.0)
        return loop.digest

    assert digest(1.0, 2.0) == digest(1.0, 2.0)
    assert len({digest(1.0, 2.0), digest(1.0, 2.5), digest(2.0, 1.0), digest(1.0)}) == 4


def test_every_purpose_and_node_has_its_own_die() -> None:
    throws = {
        rng_stream(seed, purpose, index).random() for seed in (1, 2) for purpose in ("a", "b") for index in (0, 1)
    }
    assert len(throws) == 8
    assert rng_stream(1, "a", 0).random() == rng_stream(1, "a", 0).random()
    assert numpy_rng_stream(1, "a").random() == numpy_rng_stream(1, "a").random() != numpy_rng_stream(1, "b").random()
