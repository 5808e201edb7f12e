"""The models in the memory of a simulated GPU: loading, sleeping, eviction, and the memory left for the KV cache.

Theory of operation
===================

A wanted model is loaded when its weights fit beside the resident models and the used part of the KV cache.  To make
room, the least recently used models without jobs are moved to the disk.  One model is loaded at a time (there is one
disk); models that do not fit yet wait in order, and resident models take jobs meanwhile.  A single model always fits:
if it exceeds the memory, it runs without a bound on its KV cache.

========== ================= ===========================================================
state      event             then
========== ================= ===========================================================
on disk    wanted            resident after reading and starting it (``cost_model.cold_s``)
sleeping   wanted            resident after copying it back
resident   sleep             sleeping, if it has no jobs
not on     evict, or room    on disk, if it has no jobs and is not being loaded
disk       is needed
========== ================= ===========================================================

Not here: jobs (``batch_engine``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf

from protocol.perf.gpu_catalog import MIB
from protocol.perf.model_timing import ModelTiming
from protocol.statements.adverts import ModelState

#: Name of a model, and its new state.
Changed = tuple[str, ModelState]


class ModelCache:
    """See the module's docstring.  ``memory_bytes`` bounds weights and KV cache together."""

    __slots__ = ("_memory_bytes", "_paces", "_used_at", "_wanted", "due", "kv_bytes", "loading", "loads", "states")

    def __init__(self, timings: Mapping[str, ModelTiming], resident: Iterable[str], memory_bytes: float) -> None:
        self._paces = timings
        self._memory_bytes = memory_bytes
        self.states = dict.fromkeys(timings, ModelState.ON_DISK)
        self.states |= dict.fromkeys(resident, ModelState.RESIDENT)
        self._used_at = dict.fromkeys(timings, -inf)
        # Models that wait to be loaded, in order.
        self._wanted: dict[str, None] = {}
        #: The model that is being loaded, and the time of its end.
        self.loading: str | None = None
        self.due = inf
        self.loads = 0
        #: Bytes for the KV cache; infinite if the memory is unbounded.
        self.kv_bytes = self._kv_room()

    def weights(self) -> float:
        """Bytes of the models that are resident or being loaded."""
        states = self.states
        there = sum(self._paces[name].weights for name in states if states[name] == ModelState.RESIDENT)
        return there + (self._paces[self.loading].weights if self.loading else 0.0)

    def free_mib(self) -> int:
        """Memory without a model, MiB; 0 if its size is not known."""
        return max(0, int((self._memory_bytes - self.weights()) / MIB)) if self._memory_bytes < inf else 0

    def use(self, model: str, now: float) -> None:
        """A job of this model arrived."""
        self._used_at[model] = now

    def want(self, model: str) -> None:
        """Load a model as soon as it fits; no effect if it is resident."""
        if self.states[model] != ModelState.RESIDENT and model != self.loading:
            self._wanted[model] = None

    @property
    def waits(self) -> bool:
        """Whether a model waits for memory."""
        return bool(self._wanted) and self.loading is None

    def begin(self, now: float, busy: Callable[[str], bool], kv_used: float) -> list[Changed]:
        """Start to load the first waiting model, if it can be made to fit; only if one ``waits``."""
        model = next(iter(self._wanted))
        leave = self._leavers(model, busy, kv_used)
        if leave is None:
            return []
        changed = [self.move(name, ModelState.ON_DISK) for name in leave]
        del self._wanted[model]
        self.loading = model
        self.due = now + self._paces[model].load_s(self.states[model])
        self.kv_bytes = self._kv_room()
        return changed

    def _leavers(self, model: str, busy: Callable[[str], bool], kv_used: float) -> list[str] | None:
        """The models to evict so that the model fits; None if that is not enough."""
        here = [name for name, state in self.states.items() if state == ModelState.RESIDENT]
        lack = self.weights() + self._paces[model].weights + kv_used - self._memory_bytes
        leave: list[str] = []
        for name in sorted((name for name in here if not busy(name)), key=self._used_at.__getitem__):
            if lack <= 0:
                break
            lack -= self._paces[name].weights
            leave.append(name)
        return leave if lack <= 0 or len(leave) == len(here) else None

    def finish(self) -> Changed:
        """The loading model is resident now."""
        model, self.loading, self.due = self.loading, None, inf
        assert model is not None
        self.loads += 1
        return self.move(model, ModelState.RESIDENT)

    def move(self, model: str, state: ModelState) -> Changed:
        """Set the state of a model."""
        self.states[model] = state
        self.kv_bytes = self._kv_room()
        return model, state

    def _kv_room(self) -> float:
        room = self._memory_bytes - self.weights()
        return room if room > 0 else inf
