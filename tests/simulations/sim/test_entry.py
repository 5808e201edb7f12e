"""A job at its entry: how long it takes, whom it goes to next, and that nothing of it is left anywhere."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from protocol.effects import Found
from protocol.events import Event
from protocol.jobs.entry import LOOKUP_S
from protocol.jobs.providers import UNKNOWN_S
from protocol.reputation.outcomes import Outcome
from protocol.routing.policies import SORTS
from protocol.routing.ranking import JobQuery
from protocol.settings import AdmissionSettings, CascadeSettings, NodeSettings
from protocol.wire.mux import FRAME_OVERHEAD
from simulations.run import Run
from simulations.scenario import Hardware, Model, Models
from simulations.sim.entry import by_policy
from simulations.sim.job_log import JobNote
from simulations.sim.jobs import BODY_BYTES, BODY_TOKEN_BYTES, FIRST_BYTES, PIECE_BYTES, REQ_BYTES, STAGES
from simulations.sim.network import HANDSHAKE_TRIPS
from simulations.sim.node import SimNode
from tests.simulations.small_networks import (
    DELAY_S,
    FREE,
    MEASURED,
    MODEL,
    Caller,
    attempt_of,
    engine_times,
    ordered,
    outcomes,
    scenario,
    world,
)

ONE_SLOT = (Hardware(gpu="rtx 4090", slots=1),)
NO_QUEUE = NodeSettings(admission=AdmissionSettings(queue=0))


def three(**changes: object) -> tuple[Run, Caller, list[SimNode]]:
    """An entry and two workers, asked in this order; the entry does nothing itself."""
    made = world(scenario(3, **changes))
    ordered(made.peers[0], made.peers[1], made.peers[2])
    return made, Caller(made, made.peers[0]), made.peers


def nothing_left(made: Run) -> None:
    """No slot, no channel, no job in flight is held by anybody."""
    made.checks.conserved()
    for peer in made.peers:
        assert peer.worker is not None
        assert peer.worker.running == peer.worker.waiting == peer.worker.engine.running == 0
        assert not list(peer.worker.tasks())
        assert peer.entry is not None
        assert peer.entry.under_way == 0
        assert all(link.jobs == 0 for link in peer.links.values())
        if peer.up:
            assert all(record.inflight == 0 for record in peer.node.view.records())


def stages(note: JobNote) -> dict[str, float]:
    return dict(zip(STAGES, note.stages, strict=True))


# --- how long it takes ---------------------------------------------------------------------------------------------


def test_the_first_token_comes_when_all_that_has_to_happen_has_happened() -> None:
    """By hand: request out, prompt read, one step, piece back; with the processors' time at both ends."""
    costs = msgspec.structs.replace(
        FREE, job_entry_s=0.004, decision_s=0.001, job_worker_s=0.002, token_worker_s=0.0005, token_entry_s=0.3
    )
    made = world(scenario(2), costs=costs, until=2.37)  # nobody else has anything to send at this moment
    entry, worker = made.peers
    ordered(entry, worker)
    caller = Caller(made, entry)
    note = caller.ask(prompt=700, output=40)
    caller.run(30.0)
    read_s, _ = engine_times(worker, 700)
    assert worker.worker is not None
    request = REQ_BYTES + BODY_BYTES + BODY_TOKEN_BYTES * 700 + FRAME_OVERHEAD
    there = 0.005 + request / entry.up_bytes_s + DELAY_S + request / worker.down_bytes_s + 0.002
    piece = FIRST_BYTES + PIECE_BYTES + FRAME_OVERHEAD
    back = 0.0005 + piece / worker.up_bytes_s + DELAY_S + piece / entry.down_bytes_s
    assert note.committed_at is not None
    assert note.committed_at - note.asked_at == pytest.approx(there + read_s + back, rel=1e-6)
    assert note.end == "completed"
    request_s = worker.worker.timings[MODEL].request_s
    expected = {"way_there": there, "engine": request_s, "prompt": read_s - request_s, "way_back": back}
    assert stages(note) == pytest.approx(dict.fromkeys(STAGES, 0.0) | expected, rel=1e-6, abs=1e-9)


def test_a_dead_worker_a_dial_a_queue_and_a_whole_answer_are_stages_of_the_wait() -> None:
    made = world(scenario(4, hardware=ONE_SLOT))
    entry, dead, worker, other = made.peers
    ordered(other, worker)
    Caller(made, other).ask(output=1500)
    dead.stop(silently=True)
    ordered(entry, dead, worker)
    caller = Caller(made, entry)
    note = caller.ask(streamed=False)
    caller.run(made.scenario.node.cascade.accept_s - 0.01)
    made.network.break_link(entry.links[worker.peer_id], "reset")
    caller.run(60.0)
    assert note.end == "completed"
    assert note.committed_at is not None
    assert sum(note.stages) == pytest.approx(note.committed_at - note.asked_at, abs=1e-9)
    found = stages(note)
    assert found["retries"] >= made.scenario.node.cascade.accept_s
    assert found["dial"] > (HANDSHAKE_TRIPS - 1) * 2 * DELAY_S
    assert found["admission"] > 0.5
    assert found["answer"] == pytest.approx(49 * engine_times(worker, 300)[1], rel=0.05)
    assert found["choice"] == 0.0


def test_the_own_engine_needs_no_way() -> None:
    made = world(scenario(2))
    entry = made.peers[0]
    ordered(entry, entry)
    caller = Caller(made, entry)
    sent = entry.bytes_up
    note = caller.ask(prompt=700, output=40)
    read_s, _ = engine_times(entry, 700)
    caller.run(read_s + 0.001)
    assert note.committed_at == pytest.approx(note.asked_at + read_s, rel=1e-6)
    assert entry.bytes_up - sent < BODY_TOKEN_BYTES * 700, "the load is told, the request does not travel"
    caller.run(30.0)
    assert note.end == "completed"
    nothing_left(made)


def test_a_whole_answer_counts_when_it_is_proven() -> None:
    made = world(scenario(2))
    ordered(made.peers[0], made.peers[1])
    caller = Caller(made, made.peers[0])
    note = caller.ask(streamed=False)
    caller.run(30.0)
    assert note.end == "completed"
    assert note.committed_at == note.ended_at


def test_a_whole_answer_is_small_and_a_streamed_one_is_not() -> None:
    sent = []
    for streamed in (True, False):
        made = world(scenario(2))
        ordered(made.peers[0], made.peers[1])
        caller = Caller(made, made.peers[0])
        before = made.peers[1].bytes_up
        caller.ask(output=1000, streamed=streamed)
        caller.run(60.0)
        sent.append(made.peers[1].bytes_up - before)
    assert sent[0] - sent[1] == pytest.approx(1000 * (PIECE_BYTES - BODY_TOKEN_BYTES), rel=0.05)


def test_the_answer_ends_when_the_engine_has_made_it() -> None:
    made = world(scenario(2))
    ordered(made.peers[0], made.peers[1])
    caller = Caller(made, made.peers[0])
    note = caller.ask(prompt=700, output=400)
    caller.run(60.0)
    assert made.peers[1].worker is not None
    steps = sum(made.peers[1].worker.timings[MODEL].step(1, 700.0 + made_before)[0] for made_before in range(1, 400))
    assert note.ended_at is not None
    assert note.committed_at is not None
    assert note.ended_at - note.committed_at == pytest.approx(steps, rel=0.01)


def test_a_busy_entry_hears_its_callers_one_after_the_other() -> None:
    costs = msgspec.structs.replace(FREE, job_entry_s=0.5)
    made = world(scenario(2), costs=costs)
    ordered(made.peers[0], made.peers[1])
    caller = Caller(made, made.peers[0])
    begun = made.loop.now
    notes = [caller.ask(output=2) for _ in range(6)]
    caller.run(30.0)
    asked = [at - begun for at, _ in made.job_log.attempt_log]
    assert asked == pytest.approx([0.5 * turn for turn in range(6)])
    firsts = [note.committed_at - begun for note in notes if note.committed_at is not None]
    # Whose answer came while others were waiting to be heard, waits behind them.
    assert firsts[:5] == pytest.approx([3.0] * 5)
    assert firsts[5] > 3.0


def test_a_decision_takes_longer_the_more_peers_offer_the_model() -> None:
    """0.1 s and 0.05 s for each of the three that offer it, so that one job is heard every 0.25 s."""
    made = world(scenario(3), costs=msgspec.structs.replace(FREE, decision_s=0.1, decision_peer_s=0.05))
    ordered(made.peers[0], made.peers[1])
    assert len(made.peers[0].node.view.offering(MODEL)) == 3
    caller = Caller(made, made.peers[0])
    begun = made.loop.now
    for _ in range(5):
        caller.ask(output=2)
    caller.run(30.0)
    asked = [at - begun for at, _ in made.job_log.attempt_log]
    assert asked == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])


# --- going on to the next --------------------------------------------------------------------------------------------


def test_who_is_busy_is_passed_over() -> None:
    made, caller, peers = three(hardware=ONE_SLOT, node=NO_QUEUE)
    first, second = caller.ask(output=300), caller.ask(output=300)
    caller.run(30.0)
    assert (first.worker, first.asked) == (peers[1].index, [1])
    assert (second.worker, second.asked) == (peers[2].index, [1, 2])
    assert outcomes(made) == {Outcome.COMPLETED: 2, Outcome.BUSY: 1}
    nothing_left(made)


def test_all_busy_is_said_so() -> None:
    made, caller, _peers = three(hardware=ONE_SLOT, node=NO_QUEUE)
    notes = [caller.ask(output=300) for _ in range(3)]
    caller.run(30.0)
    assert [note.end for note in notes] == ["completed", "completed", "queue_full"]
    nothing_left(made)


def test_who_has_not_got_the_model_refuses() -> None:
    models = Models(catalogue=(Model(name=MODEL), Model(name="qwen2.5-7b-instruct")), warm=1)
    made = world(scenario(2, models=models))  # the first machines make the catalogue whole: one model each
    entry, other = made.peers
    ordered(entry, other, entry)
    caller = Caller(made, entry)
    note = caller.ask()
    caller.run(30.0)
    assert note.asked == [1, 0]
    assert note.end == "completed"
    assert outcomes(made) == {Outcome.REFUSED: 1, Outcome.COMPLETED: 1}
    nothing_left(made)


def test_who_is_gone_is_passed_over() -> None:
    made, caller, peers = three()
    peers[1].stop(silently=False)
    caller.run(1.0)
    note = caller.ask()
    caller.run(30.0)
    assert note.asked == [1, 2]
    assert note.end == "completed"
    assert outcomes(made) == {Outcome.UNREACHABLE: 1, Outcome.COMPLETED: 1}
    assert note.committed_at is not None
    assert note.committed_at - note.asked_at < 1.0  # refused at once, not after a timeout


def test_a_link_that_breaks_before_the_first_token_is_not_seen_by_the_caller() -> None:
    made, caller, peers = three()
    note = caller.ask()
    caller.run(DELAY_S + 0.005)
    assert attempt_of(made, peers[1]).first_at is None
    made.network.break_link(peers[0].links[peers[1].peer_id], "test")
    caller.run(30.0)
    assert note.asked == [1, 2]
    assert note.end == "completed"
    assert outcomes(made) == {Outcome.BROKEN: 1, Outcome.COMPLETED: 1}
    nothing_left(made)


def test_a_link_that_breaks_in_the_middle_of_an_answer_ends_it() -> None:
    made, caller, peers = three()
    note = caller.ask(output=2000)
    caller.run(3.0)
    assert note.committed_at is not None
    made.network.break_link(peers[0].links[peers[1].peer_id], "test")
    caller.run(1.0)
    assert (note.end, note.asked) == ("peer_failed", [1])
    assert made.job_log.wasted_s == pytest.approx(3.0, abs=0.3)
    nothing_left(made)  # the worker has stopped, too


def test_a_worker_that_vanishes_in_the_middle_is_found_out_by_its_silence() -> None:
    made, caller, peers = three()
    note = caller.ask(output=2000)
    caller.run(3.0)
    peers[1].stop(silently=True)
    gone = made.loop.now
    caller.run(60.0)
    frame_s = peers[0].settings.cascade.frame_s
    assert note.end == "peer_failed"
    assert note.ended_at is not None
    assert frame_s - 4.1 < note.ended_at - gone < frame_s + 0.1  # the last word was at most so old
    assert outcomes(made) == {Outcome.SILENT: 1}


def test_an_engine_that_hangs_costs_one_attempt() -> None:
    made, caller, peers = three()
    assert peers[1].worker is not None
    peers[1].worker.broken = 1
    note = caller.ask()
    caller.run(60.0)
    assert note.asked == [1, 2]
    assert note.end == "completed"
    assert outcomes(made) == {Outcome.NO_ANSWER: 1, Outcome.COMPLETED: 1}
    assert note.committed_at is not None
    settings = peers[0].settings.cascade
    assert settings.first_token_s <= note.committed_at - note.asked_at < settings.first_token_s + 1.0
    assert made.job_log.wasted_s == pytest.approx(settings.first_token_s, abs=0.1)
    nothing_left(made)


def test_a_frozen_worker_does_not_accept() -> None:
    made, caller, peers = three()
    peers[1].cpu_until = made.loop.now + 5.0
    note = caller.ask()
    caller.run(60.0)
    assert note.asked == [1, 2]
    assert outcomes(made) == {Outcome.NO_ACCEPT: 1, Outcome.COMPLETED: 1}
    nothing_left(made)


def test_a_job_has_its_time() -> None:
    node = NodeSettings(cascade=CascadeSettings(total_s=4.0))
    made = world(scenario(2, node=node))
    ordered(made.peers[0], made.peers[1])
    caller = Caller(made, made.peers[0])
    note = caller.ask(output=5000)
    caller.run(60.0)
    assert note.end == "deadline_exceeded"
    assert note.ended_at == pytest.approx(note.asked_at + 4.0)
    nothing_left(made)


# --- callers and crashes -------------------------------------------------------------------------------------------


def test_a_caller_that_goes_frees_the_slot_at_the_worker() -> None:
    made, caller, peers = three()
    note = caller.ask(output=5000)
    caller.run(3.0)
    assert peers[1].worker is not None
    assert peers[1].worker.engine.running == 1
    assert caller.at.entry is not None
    caller.at.entry.caller_gone(note.number)
    assert note.end == "cancelled"
    caller.run(2 * DELAY_S)
    nothing_left(made)
    caller.run(30.0)
    assert made.job_log.violations == []


def test_a_job_whose_caller_goes_while_a_link_is_dialled_is_never_sent() -> None:
    made, caller, peers = three()
    made.network.break_link(peers[0].links[peers[1].peer_id], "test")
    note = caller.ask()
    caller.run(DELAY_S)
    assert peers[1].peer_id not in peers[0].links, "a dial takes seven round trips"
    assert caller.at.entry is not None
    caller.at.entry.caller_gone(note.number)
    caller.run(30.0)
    assert peers[1].peer_id in peers[0].links, "the link came up all the same"
    assert (note.end, note.asked, note.executions) == ("cancelled", [1], 0)
    assert peers[1].worker is not None
    assert peers[1].worker.arrivals == 0
    nothing_left(made)


@pytest.mark.parametrize("local", [True, False])
def test_what_nobody_wants_any_more_when_the_worker_comes_to_it_is_not_begun(local: bool) -> None:
    made = world(scenario(2), costs=msgspec.structs.replace(FREE, job_worker_s=0.5))
    entry, other = made.peers
    worker = entry if local else other
    ordered(entry, worker)
    caller = Caller(made, entry)
    note = caller.ask()
    caller.run(0.2)
    assert worker.worker is not None
    assert worker.worker.arrivals == 1
    if local:
        assert entry.entry is not None
        entry.entry.caller_gone(note.number)
    else:
        made.network.break_link(entry.links[other.peer_id], "test")
    caller.run(10.0)
    assert note.end == ("cancelled" if local else note.end)
    assert worker.worker.executions == note.executions == (0 if local else len(note.asked) - 1)
    nothing_left(made)
    made.checks.look()


def test_late_word_of_an_earlier_link_costs_no_job_on_the_one_that_stands() -> None:
    made, caller, peers = three()
    note = caller.ask()
    caller.run(0.3)
    assert caller.at.entry is not None
    caller.at.entry.link_down(peers[1])
    caller.run(30.0)
    assert (note.end, note.asked) == ("completed", [1])
    assert outcomes(made) == {Outcome.COMPLETED: 1}


def test_a_caller_that_goes_at_once_or_during_a_look_up_is_not_served() -> None:
    made = world(scenario(2), costs=MEASURED)
    caller = Caller(made, made.peers[0])
    made.peers[0].spend(1.0)
    unheard, searching = caller.ask(), caller.ask(model="nobody-has-it-7b")
    assert caller.at.entry is not None
    caller.at.entry.caller_gone(unheard.number)
    made.loop.at(made.loop.now + 1.02, caller.at.entry.caller_gone, searching.number)
    caller.run(30.0)
    assert {unheard.end, searching.end} <= {"cancelled", "model_not_found"}
    assert unheard.end == "cancelled"
    assert unheard.attempts == 0
    nothing_left(made)


def test_who_asked_a_crashed_entry_gets_no_answer_and_its_jobs_end_everywhere() -> None:
    for silently in (False, True):
        made, caller, peers = three()
        notes = [caller.ask(output=5000) for _ in range(3)]
        caller.run(2.0)
        assert peers[1].worker is not None
        assert peers[1].worker.engine.running == 3
        peers[0].stop(silently=silently)
        assert [note.end for note in notes] == ["entry_crashed"] * 3
        assert made.job_log.submitted == made.job_log.failed == 3
        caller.run(peers[0].settings.link.dead_s + 1.0 if silently else 0.1)
        nothing_left(made)
        made.checks.look()


def test_a_crash_before_a_job_was_heard_or_answered_by_the_dht_loses_none() -> None:
    made = world(scenario(2), costs=MEASURED)
    caller = Caller(made, made.peers[0])
    searching = caller.ask(model="nobody-has-it-7b")
    caller.run(0.01)
    made.peers[0].spend(1.0)
    unheard = caller.ask()
    made.peers[0].stop(silently=False)
    made.start(made.peers[0])
    caller.run(30.0)
    assert unheard.end == "entry_crashed"
    assert searching.end in ("entry_crashed", "model_not_found")
    nothing_left(made)
    made.checks.look()


# --- beyond the view -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_that_the_view_does_not_know_is_found_in_the_dht() -> None:
    models = Models(catalogue=(Model(name="qwen2.5-7b-instruct"),) * 7 + (Model(name=MODEL),))
    made = world(scenario(8, models=models), until=30.0)
    entry, worker = made.peers[0], made.peers[7]
    assert [offer.name for offer in worker.machine.offers] == [MODEL]
    entry.node.view.remove(worker.peer_id)
    assert not entry.node.view.offers(MODEL)
    caller = Caller(made, entry)
    note = caller.ask()
    caller.run(10.0)
    assert (note.end, note.asked) == ("completed", [7])


@pytest.mark.parametrize(("answers_after", "ends_after"), [(0.5, 0.5), (None, LOOKUP_S), (2 * LOOKUP_S, LOOKUP_S)])
def test_a_fruitless_look_up_ends_with_its_answer_or_at_its_deadline(
    answers_after: float | None, ends_after: float
) -> None:
    """The DHT says that nobody has the model, says nothing, or says it too late; the job ends once in each case."""
    made = world(scenario(2))
    entry = made.peers[0]
    numbers: list[int] = []

    def ask(event: Callable[[int], Event], done: Callable[[Found], object]) -> None:
        numbers.append(len(numbers) + 1)
        if answers_after is not None:
            made.loop.at(made.loop.now + answers_after, done, Found(numbers[-1], (), (), 0))

    entry.ask = ask  # type: ignore[method-assign]
    caller = Caller(made, entry)
    note = caller.ask(model="nobody-has-it-7b")
    caller.run(30.0)
    assert (note.end, note.attempts, numbers) == ("model_not_found", 0, [1])
    assert note.ended_at == pytest.approx(note.asked_at + ends_after)
    assert made.job_log.violations == []
    nothing_left(made)


@pytest.mark.slow
def test_a_model_that_nobody_has_is_asked_for_once_in_a_while() -> None:
    made = world(scenario(8))
    caller = Caller(made, made.peers[0])
    first = caller.ask(model="nobody-has-it-7b")
    caller.run(10.0)
    assert first.end == "model_not_found"
    assert first.ended_at is not None
    assert first.ended_at > first.asked_at
    again = caller.ask(model="nobody-has-it-7b")
    assert (again.end, again.ended_at) == ("model_not_found", again.asked_at)  # known to be unknown
    caller.run(UNKNOWN_S)
    later = caller.ask(model="nobody-has-it-7b")
    assert later.end == ""
    caller.run(10.0)
    assert later.end == "model_not_found"


def test_offers_that_cannot_be_taken_now_are_no_reason_to_search() -> None:
    made = world(scenario(3))
    entry = made.peers[0]
    caller = Caller(made, entry)
    note = caller.ask(prompt=10_000_000)
    assert note.end == "context_length_exceeded"
    for peer in made.peers[1:]:
        entry.node.view.set_state(peer.peer_id, "dead", made.loop.now)
    entry.node.view.set_state(entry.peer_id, "dead", made.loop.now)
    assert caller.ask().end == "no_capacity"
    made.checks.conserved()


def test_a_prompt_that_only_our_guess_finds_too_long_is_tried() -> None:
    made = world(scenario(3))
    context = made.peers[1].machine.offers[0].context
    caller = Caller(made, made.peers[0])
    note = caller.ask(prompt=context + 100, output=10)
    caller.run(60.0)
    assert note.attempts >= 1
    assert note.end == "completed"


@pytest.mark.parametrize("policy", [*SORTS, "expected-seconds"])
def test_a_sort_is_a_way_to_choose_like_any_policy(policy: str) -> None:
    made = world(scenario(3))
    ranking = by_policy(policy)(made.peers[0], JobQuery(MODEL, 100, 100), False, None)
    assert ranking.policy == policy
    assert len(ranking.candidates) == 3
