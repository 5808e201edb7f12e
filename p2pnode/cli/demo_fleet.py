"""The nodes of the demo: with simulated GPUs, or with real vLLM and a model that the demo generates.

A demo fleet defines the nodes and starts them.  The steps of the demo are in ``verbs/demo``.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final

from p2pnode.cli.exits import FAILED, Exit
from p2pnode.cli.processes import Fleet, NodeProcess


class DemoFleet(ABC):
    """The nodes with an engine, by name, and their time limits."""

    #: The title of the demo's first step.
    title: ClassVar[str]
    #: Names of the nodes, and the hardware of each.
    workers: ClassVar[Mapping[str, str]]
    #: Seconds until the engines have loaded, until all nodes know each other, for one answer, and for the end.
    load_s: ClassVar[float]
    join_s: ClassVar[float]
    answer_s: ClassVar[float]
    stop_s: ClassVar[float]

    def check(self) -> None:
        """Raise ``Exit``, which says what to do, if this machine cannot run the fleet."""
        return

    @abstractmethod
    def start(self, fleet: Fleet, name: str, seed: NodeProcess) -> NodeProcess:
        """Start one of ``workers``."""


class Simulated(DemoFleet):
    """Four different cards that can hold the model: server and desktop, new and old."""

    title = "Start a bootstrap node, four nodes with a simulated GPU each, and a gateway without any"
    workers: ClassVar = {"ada": "RTX 4090", "grace": "RTX 3090", "alan": "A100 PCIe 80GB", "edsger": "L4"}
    load_s = 5.0
    #: About 1 s on an idle machine; six processes on two busy cores take longer.
    join_s = 15.0
    answer_s = 20.0
    stop_s = 8.0

    def start(self, fleet: Fleet, name: str, seed: NodeProcess) -> NodeProcess:
        return fleet.node(name, "--bootstrap", seed.address, "--engine", "mock", "--mock-gpu", self.workers[name])


class RealVllm(DemoFleet):
    """Two vLLMs, as many as a laptop without a GPU can run: 3 GB and half a minute of a core each (measured)."""

    title = "Start a bootstrap node, two nodes that run vLLM with a model made here, and a gateway without any"
    workers: ClassVar = {"ada": "vLLM", "grace": "vLLM"}
    #: Measured on two idle cores: 30 s for one, 65 s for two; four times that for a busy machine (guess).
    load_s = 300.0
    join_s = 30.0
    answer_s = 60.0
    #: vLLM gets 5 s after SIGTERM, and its node a little more.
    stop_s = 20.0
    #: vLLM's own flags: no compilation for a model this small, and only a part of the GPU, because two share it.
    options: ClassVar = {"enforce-eager": "", "gpu-memory-utilization": "0.2", "max-num-seqs": "8"}
    #: GiB of KV cache on a CPU: 2,048 tokens of this model need a few MB.
    kv_gib: Final = "1"

    def check(self) -> None:
        import trio

        from p2pnode.engine.base import EngineFailed
        from p2pnode.engine.vllm_supervisor import find_server

        try:
            trio.run(find_server, self._python())
        except EngineFailed:
            raise Exit(
                FAILED,
                f"{self._python()} has no vLLM: run `make demo ENGINE=vllm` in a checkout, which installs the CPU "
                "build, or `pip install 'p2pnode[vllm]'` on a machine with a GPU, or set P2PNODE_VLLM_PYTHON to a "
                "Python that has it",
            ) from None

    def start(self, fleet: Fleet, name: str, seed: NodeProcess) -> NodeProcess:
        from p2pnode.engine import tiny_model

        model = tiny_model.make(fleet.home / "model")
        home = fleet.home / name
        home.mkdir(mode=0o700)
        # Only the file can set vLLM's options.  An ASCII JSON string is also a TOML string.
        options = "".join(f"{key} = {json.dumps(value)}\n" for key, value in self.options.items())
        (home / "config.toml").write_text(
            f"version = 1\n[[engine.models]]\nname = {json.dumps(tiny_model.NAME)}\nsource = {json.dumps(str(model))}\n"
            f"[engine.models.options]\n{options}",
            encoding="utf-8",
        )
        environment = {"P2PNODE_VLLM_PYTHON": self._python(), "VLLM_CPU_KVCACHE_SPACE": self.kv_gib}
        return fleet.node(name, "--bootstrap", seed.address, "--engine", "vllm", env=environment)

    @staticmethod
    def _python() -> str:
        from p2pnode.engine.selection import vllm_python

        return vllm_python(os.environ)


FLEETS: Final[dict[str, DemoFleet]] = {"mock": Simulated(), "vllm": RealVllm()}
