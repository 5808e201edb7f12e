"""A job at its worker: places, promises, signs of life, models that have to be loaded, and what is gossiped of it."""

from __future__ import annotations

import msgspec
import pytest

from protocol.jobs.admission import Arrived
from protocol.jobs.cascade_events import Begin
from protocol.perf.batch_engine import BatchEngine
from protocol.perf.sequences import Finished, Work
from protocol.reputation.outcomes import Outcome
from protocol.routing.ranking import JobQuery
from protocol.settings import AdmissionSettings, NodeSettings
from protocol.statements.adverts import ModelState, Status
from simulations.run import Run
from simulations.scenario import Hardware, Model, Models, Scenario
from simulations.sim.jobs import Job, SimAttempt
from simulations.sim.worker import Worker
from tests.simulations.small_networks import FREE, MODEL, Caller, engine_times, ordered, outcomes, scenario, world

TWO_SLOTS = (Hardware(gpu="rtx 4090", slots=2),)
COLD = "qwen2.5-7b-instruct"


def served(given: Scenario | None = None, **how: object) -> tuple[Run, Caller, Worker]:
    """An entry and the only worker that it asks."""
    made = world(given or scenario(2), **how)  # type: ignore[arg-type]
    ordered(made.peers[0], made.peers[1])
    assert made.peers[1].worker is not None
    return made, Caller(made, made.peers[0]), made.peers[1].worker


# --- places --------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_waits_and_comes_in_order() -> None:
    made, caller, worker = served(scenario(2, hardware=TWO_SLOTS))
    notes = [caller.ask(output=100 + 50 * number) for number in range(6)]
    caller.run(0.1)
    assert (worker.running, worker.waiting, worker.engine.running) == (2, 4, 2)
    caller.run(60.0)
    firsts = [note.committed_at for note in notes if note.committed_at is not None]
    assert len(firsts) == 6
    assert firsts == sorted(firsts)
    assert (worker.running, worker.waiting) == (0, 0)
    assert outcomes(made) == {Outcome.COMPLETED: 6}


def test_a_full_engine_is_as_fast_as_the_engine_alone() -> None:
    """Queue and engine together are what the machine alone makes of the same jobs, each given when a slot is free."""
    made, caller, worker = served(scenario(2, hardware=TWO_SLOTS))
    outputs = [40, 200, 90, 10, 300, 120, 60, 5]
    begun = made.loop.now
    notes = [caller.ask(output=output) for output in outputs]
    caller.run(120.0)
    ended = {note.number: note.ended_at for note in notes}
    alone = BatchEngine(worker.timings, slots=2)
    waiting, ends, now = list(enumerate(outputs, 1)), dict[int, float](), begun
    wake = float("inf")
    free = 2
    while len(ends) < len(outputs):
        effects = []
        while free and waiting:
            number, output = waiting.pop(0)
            free -= 1
            effects += alone.submit(Work(number, MODEL, 300, output), now)
        for effect in effects:
            wake = getattr(effect, "at", wake)
        now = max(now, wake)
        for effect in alone.timer(now):
            wake = getattr(effect, "at", wake)
            if isinstance(effect, Finished):
                ends[effect.job] = now
                free += 1
    way = 2 * made.network.latencies.one_way_s(0, 1)
    assert [ended[number] for number in ends] == pytest.approx([at + way for at in ends.values()], abs=0.02)


def test_a_full_queue_turns_away() -> None:
    node = NodeSettings(admission=AdmissionSettings(queue=1))
    made, caller, _worker = served(scenario(2, hardware=TWO_SLOTS, node=node))
    notes = [caller.ask(output=300) for _ in range(4)]
    caller.run(60.0)
    assert sorted(note.end for note in notes) == ["completed"] * 3 + ["queue_full"]
    assert outcomes(made) == {Outcome.COMPLETED: 3, Outcome.BUSY: 1}


def test_own_jobs_go_before_those_of_guests() -> None:
    made, guest, worker = served(scenario(2, hardware=(Hardware(gpu="rtx 4090", slots=1),)))
    ordered(made.peers[1], made.peers[1])
    own = Caller(made, made.peers[1])
    running, waiting = guest.ask(output=200), guest.ask(output=200)
    guest.run(0.5)
    mine = own.ask(output=200)
    guest.run(60.0)
    times = [note.committed_at for note in (running, mine, waiting)]
    assert times == sorted(times)  # type: ignore[type-var]
    assert worker.executions == 3


def test_a_promise_is_longer_behind_others() -> None:
    made, caller, worker = served(scenario(2, hardware=TWO_SLOTS))
    told: list[float] = []
    entry = made.peers[0].entry
    assert entry is not None
    listen = entry.heard

    def heard(attempt: SimAttempt, event: object) -> None:
        if hasattr(event, "promise_s"):
            told.append(event.promise_s)
        listen(attempt, event)  # type: ignore[arg-type]

    entry.heard = heard  # type: ignore[method-assign]
    for _ in range(6):
        caller.ask(output=300)
    caller.run(1.0)
    assert len(told) == 6
    assert told[0] == told[1] < told[2] < told[3] < told[4] < told[5]
    assert worker.waiting == 4


# --- signs of life -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_a_long_job_is_never_taken_for_dead(streamed: bool) -> None:
    made, caller, worker = served()
    step_s = engine_times(worker.peer, 300)[1]
    note = caller.ask(output=round(60 / step_s), most=round(60 / step_s), streamed=streamed)
    caller.run(120.0)
    assert note.end == "completed"
    assert note.ended_at is not None
    assert note.ended_at - note.asked_at > 60.0
    assert outcomes(made) == {Outcome.COMPLETED: 1}
    assert note.asked == [1]


def test_a_job_that_waits_long_for_its_turn_hears_that_it_is_not_forgotten() -> None:
    made, caller, worker = served(scenario(2, hardware=(Hardware(gpu="rtx 4090", slots=1),)))
    step_s = engine_times(worker.peer, 300)[1]
    for _ in range(4):
        caller.ask(output=round(4 / step_s))
    last = caller.ask(output=10)
    caller.run(60.0)
    assert last.committed_at is not None
    assert last.committed_at - last.asked_at > 15.0  # longer than any silence that is allowed
    assert outcomes(made) == {Outcome.COMPLETED: 5}


def test_a_throttled_engine_is_slower_by_as_much() -> None:
    firsts = []
    for share in (1.0, 0.5):
        made, caller, worker = served()
        worker.throttle(share)
        note = caller.ask(prompt=4000, output=10)
        caller.run(30.0)
        assert note.committed_at is not None
        firsts.append(note.committed_at - note.asked_at)
        assert made.job_log.completed == 1
    read_s, _ = engine_times(worker.peer, 4000)
    assert firsts[1] - firsts[0] == pytest.approx(read_s - worker.timings[MODEL].request_s, rel=0.02)


# --- models --------------------------------------------------------------------------------------------------------


def two_models() -> Scenario:
    models = Models(catalogue=(Model(name=MODEL), Model(name=COLD)), warm=1, on_disk=1)
    return scenario(2, models=models, hardware=(Hardware(gpu="h100", slots=4),))


def test_a_cold_model_is_loaded_and_everybody_is_told() -> None:
    made = world(two_models())
    entry, peer = made.peers
    ordered(entry, peer)
    assert peer.worker is not None
    cold = next(offer.name for offer in peer.machine.offers if not offer.warm)

    def seen_by_entry() -> int:
        record = entry.node.view.get(peer.peer_id)
        assert record is not None
        assert record.advert is not None
        return next(offer.state for offer in record.advert.models if offer.name == cold)

    assert seen_by_entry() == ModelState.ON_DISK
    load_s = peer.worker.timings[cold].load_s(int(ModelState.ON_DISK))
    assert load_s > 3.0
    assert peer.worker.true_wait_s(Job(0, cold, 300, 9, True, (), 0, 0.0)) > load_s
    caller = Caller(made, entry)
    note = caller.ask(model=cold, output=20, streamed=False, most=200)
    caller.run(load_s + 60.0)
    assert note.end == "completed"
    assert note.ended_at is not None
    assert note.ended_at - note.asked_at > load_s
    assert peer.worker.engine.cold_loads == 1
    assert seen_by_entry() == ModelState.RESIDENT


def test_a_model_that_is_not_here_is_refused() -> None:
    made, caller, worker = served()
    note = caller.ask(model="mistral-7b")
    caller.run(10.0)
    assert (note.end, worker.executions) == ("no_capacity", 0)
    assert outcomes(made) == {Outcome.REFUSED: 1}


def test_blocks_that_were_read_before_are_not_read_again() -> None:
    _made, caller, worker = served()
    firsts = []
    for _ in range(2):
        note = caller.ask(prompt=4096, output=5, blocks=tuple(range(1, 257)))
        caller.run(20.0)
        assert note.committed_at is not None
        firsts.append(note.committed_at - note.asked_at)
    assert worker.engine.prefix_hit_tokens >= 4080
    assert firsts[1] < firsts[0] / 2


# --- what is said of it --------------------------------------------------------------------------------------------


def test_load_is_the_engines_and_what_waits_before_it() -> None:
    _made, caller, worker = served(scenario(2, hardware=TWO_SLOTS))
    idle = worker.load()
    assert (idle.running, idle.waiting, idle.slots, idle.status) == (0, 0, 2, Status.ONLINE)
    assert worker.load() is idle  # nothing has changed, so there is nothing to tell
    for _ in range(5):
        caller.ask(output=300)
    caller.run(0.5)
    full = worker.load()
    assert (full.running, full.waiting, full.status) == (2, 3, Status.BUSY)
    caller.run(60.0)
    assert msgspec.structs.replace(worker.load(), free_vram_mib=idle.free_vram_mib) == idle


def test_a_crash_ends_everything_and_the_next_life_begins_empty() -> None:
    made, caller, worker = served()
    for _ in range(6):
        caller.ask(output=3000)
    caller.run(1.0)
    peer = worker.peer
    assert (worker.running, worker.waiting) == (4, 2)
    peer.stop(silently=False)
    assert (worker.running, worker.waiting, worker.engine.running, list(worker.tasks())) == (0, 0, 0, [])
    made.start(peer)
    caller.run(3.0)
    note = caller.ask(output=50)
    caller.run(10.0)
    assert note.end == "completed"
    made.checks.look()


def test_the_true_wait_grows_with_what_is_before_it() -> None:
    _made, caller, worker = served(scenario(2, hardware=TWO_SLOTS), costs=FREE)
    job = Job(0, MODEL, 300, 100, True, (), 0, 0.0)
    waits = [worker.true_wait_s(job)]
    assert waits[0] == pytest.approx(worker.timings[MODEL].read_s(300))
    for _ in range(4):
        caller.ask(output=2000, most=2000)
        caller.run(0.5)
        waits.append(worker.true_wait_s(job))
    assert waits[1] == pytest.approx(waits[0], rel=0.5)  # a slot is free
    assert waits[2] < waits[3] < waits[4]
    worker.throttle(0.0)
    assert worker.true_wait_s(job) == float("inf")


# --- the oracle boundary -------------------------------------------------------------------------------------------


def test_nobody_but_the_engine_can_know_how_long_an_answer_will_be() -> None:
    for told in (Job, JobQuery, Begin, Arrived):
        assert not [name for name in told.__annotations__ if "output" in name or "truth" in name]


def test_what_the_entry_does_until_the_first_token_does_not_depend_on_the_truth() -> None:
    digests = []
    for output in (3, 4000):
        made, caller, worker = served()
        note = caller.ask(output=output)
        read_s, step_s = engine_times(worker.peer, 300)
        caller.run(read_s + step_s + 0.03)
        digests.append((made.loop.now, note.attempts, worker.load(), made.peers[0].bytes_up))
    assert digests[0] == digests[1]
