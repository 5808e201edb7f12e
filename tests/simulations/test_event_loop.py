"""The event loop: order, time, digest."""

from __future__ import annotations

from simulations.event_loop import Kernel
from simulations.rng_streams import dice, numpy_dice


def test_things_happen_in_the_order_of_time_then_of_their_scheduling() -> None:
    kernel, seen = Kernel(), []
    kernel.at(2.0, seen.append, "late")
    kernel.at(1.0, seen.append, "first")
    kernel.at(1.0, seen.append, "second")
    kernel.run(1.5)
    assert seen == ["first", "second"]
    assert (kernel.now, kernel.events, kernel.pending) == (1.5, 2, 1)
    kernel.run(5.0)
    assert seen == ["first", "second", "late"]
    assert kernel.now == 5.0


def test_the_past_is_now() -> None:
    kernel, seen = Kernel(), []
    kernel.run(3.0)
    kernel.at(1.0, lambda: seen.append(kernel.now))
    kernel.run(4.0)
    assert seen == [3.0]


def test_it_can_be_stopped_after_an_event() -> None:
    kernel, seen = Kernel(), []
    kernel.at(1.0, kernel.stop)
    kernel.at(2.0, seen.append, "never")
    kernel.run(9.0)
    assert (seen, kernel.now) == ([], 1.0)


def test_the_digest_is_of_every_event() -> None:
    def digest(*times: float) -> str:
        kernel = Kernel()
        for time in times:
            kernel.at(time, int)
        kernel.run(10.0)
        return kernel.digest

    assert digest(1.0, 2.0) == digest(1.0, 2.0)
    assert len({digest(1.0, 2.0), digest(1.0, 2.5), digest(2.0, 1.0), digest(1.0)}) == 4


def test_every_purpose_and_node_has_its_own_die() -> None:
    throws = {dice(seed, purpose, index).random() for seed in (1, 2) for purpose in ("a", "b") for index in (0, 1)}
    assert len(throws) == 8
    assert dice(1, "a", 0).random() == dice(1, "a", 0).random()
    assert numpy_dice(1, "a").random() == numpy_dice(1, "a").random() != numpy_dice(1, "b").random()
