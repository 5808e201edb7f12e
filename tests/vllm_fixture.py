"""A real vLLM for the session, held by the daemon's own supervisor in a process of its own.

``vllm_host`` is the fixture; the first answer takes half a minute and 3 GB.  Where the CPU build of vLLM is not
installed the tests that need it are skipped with the command that installs it, or fail under
``P2PNODE_REQUIRE_VLLM=1``.  Run as a module, this file is the process: ``python -m tests.vllm_fixture FOLDER``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode.engine import tiny_model
from p2pnode.engine.base import ModelSpec
from p2pnode.engine.model_folder import described
from p2pnode.engine.vllm_supervisor import VllmEngine

ROOT = Path(__file__).parent.parent
MODEL = tiny_model.NAME
#: float32 because greedy answers must be the same token for token, eager because compiling takes longer than the test.
OPTIONS = {"dtype": "float32", "enforce-eager": ""}
#: Seconds that a start may take on a loaded machine with two cores (measured: 27 to 65 s when it is idle).
START_S = 240.0


def interpreter() -> Path:
    """The Python that has vLLM."""
    return Path(os.environ.get("P2PNODE_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")


def need_vllm() -> Path:
    """The interpreter, or the test ends here: skipped, or failed where vLLM was promised."""
    python = interpreter()
    if python.exists():
        return python
    reason = f"no vLLM at {python}: run `make vllm`, or set P2PNODE_VLLM_PYTHON"
    if os.environ.get("P2PNODE_REQUIRE_VLLM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class VllmHost:
    """The process that supervises vLLM.  ``url``, ``key`` and ``group`` change when vLLM is restarted."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def python(self) -> Path:
        return interpreter()

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def status(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {"state": "starting", "problem": "", "restarts": 0}

    def __getattr__(self, name: str) -> Any:
        if name in ("url", "key", "group"):
            return self.status()[name]
        raise AttributeError(name)

    def wait(self, *, restarts: int = 0, state: str = "ready") -> dict[str, Any]:
        """Until it is in that state after so many restarts."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            status = self.status()
            if status["state"] == state and status["restarts"] >= restarts:
                return status
            assert self.process.poll() is None, "the host of vLLM ended"
            time.sleep(0.1)
        raise AssertionError(f"vLLM is not {state} after {START_S:.0f} s: {self.status()}")


def start_host(folder: Path) -> VllmHost:
    """Start the process; it makes the model and starts vLLM."""
    environment = os.environ | {"P2PNODE_VLLM_PYTHON": str(need_vllm()), "VLLM_CPU_KVCACHE_SPACE": "1"}
    command = [sys.executable, "-m", "tests.vllm_fixture", str(folder)]
    return VllmHost(subprocess.Popen(command, cwd=ROOT, env=environment), folder)


@pytest.fixture(scope="session")
def vllm_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmHost]:
    """A supervised vLLM that serves the tiny model."""
    host = start_host(tmp_path_factory.mktemp("vllm"))
    try:
        host.wait()
        yield host
    finally:
        host.process.terminate()
        host.process.wait(30)


async def main(folder: Path) -> None:
    """Supervise vLLM until SIGTERM, writing each change of its state to ``status.json``."""
    spec = described(ModelSpec(MODEL, str(tiny_model.make(folder / "model")), options=OPTIONS))
    engine = VllmEngine(spec, str(interpreter()), folder, runtime="cpu", slots=8)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        nursery.start_soon(_until_asked, nursery.cancel_scope)
        seen = None
        while True:
            _report(engine, folder / "status.json")
            with trio.move_on_after(0.2):
                seen = await engine.wait_changed(seen)


async def _until_asked(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _report(engine: VllmEngine, path: Path) -> None:
    url, key = engine.endpoint or ("", "")
    status = {"state": engine.state, "problem": engine.problem, "restarts": engine.restarts, "url": url, "key": key}
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(status | {"group": engine.group}))
    partial.replace(path)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
