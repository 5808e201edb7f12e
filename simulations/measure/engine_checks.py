"""Checks the state of an engine (I5): slots, memory, and jobs that wait although a slot is free."""

from __future__ import annotations

from math import inf
from typing import Final

from simulations.sim.worker import Worker

#: An engine whose timer is overdue by more than this has been forgotten, seconds.
OVERDUE_S: Final = 1.0
#: Bytes of rounding that memory may be off by.
ROUNDING_BYTES: Final = 1024.0


def engine_fault(worker: Worker, now: float) -> str:  # noqa: PLR0911 - one per thing that may be wrong
    """One sentence, or nothing."""
    engine, slots = worker.engine, worker.peer.machine.slots
    state = engine.introspect(now)
    if not 0 <= engine.running <= slots:
        return f"{engine.running} jobs run in {slots} slots"
    if engine.waiting < 0 or worker.waiting < 0:
        return "fewer than no jobs wait"
    if not 0 <= worker.running <= slots:
        return f"{worker.running} jobs were admitted to {slots} slots"
    if worker.waiting and worker.running < slots:
        return f"{worker.waiting} jobs wait to be admitted though {slots - worker.running} slots are free"
    if state.kv_used < -ROUNDING_BYTES or state.kv_pinned < -ROUNDING_BYTES:
        return "less than no memory is used"
    if engine.running > 1 and state.kv_used > state.kv_total + ROUNDING_BYTES:
        return f"{state.kv_used:.0f} bytes of {state.kv_total:.0f} are used"
    room = state.kv_total - state.kv_used - state.growth
    if engine.running < engine.slots and state.needed < inf and (not engine.running or state.needed <= room):
        return f"{engine.waiting} jobs wait though a slot and memory are free"
    held = sum(1 for _ in worker.tasks())
    if held != worker.running + worker.waiting:
        return f"{held} jobs are here, but {worker.running} run and {worker.waiting} wait"
    if state.jobs > worker.running:
        return f"the engine has {state.jobs} jobs, {worker.running} were admitted"
    if state.wake < now - OVERDUE_S or (state.wake != worker.wake_at and not worker.broken):
        return f"its timer was forgotten: {state.wake:.3f} s, set for {worker.wake_at:.3f} s"
    return ""
