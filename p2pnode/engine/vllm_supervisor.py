"""vLLM as a supervised child process: started, watched, restarted, and ended with the node.

``run`` repeats these steps.  It starts the child on a free loopback port with a fresh key and waits until it answers
``/health``.  From then on the child is an OpenAI-compatible server (``openai``), until it ends.  Its jobs then fail,
``problem`` names the reason in one line, and the next child starts after a pause.  The pause doubles each time; a
child that ran for ``STEADY_S`` resets it.
vLLM may be installed in another environment than the node: ``python`` is the interpreter of that environment.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Final

import trio

from p2pnode.engine.base import Changes, EngineFailed, EngineJob, EngineReply, EngineState, ModelSpec
from p2pnode.engine.child_process import Child, child
from p2pnode.engine.openai import OpenAIEngine
from p2pnode.engine.upstream import Upstream, UpstreamBroken
from protocol.statements.adverts import Gpu, Load, ModelOffer

#: First and longest pause before vLLM is restarted, seconds, doubling; a child that served for ``STEADY_S`` resets it
#: (guess: restarts do not repair a broken driver, but an out-of-memory may pass).
RESTART_FIRST_S: Final = 1.0
RESTART_MOST_S: Final = 300.0
STEADY_S: Final = 120.0
#: Longest start, seconds: loads a model of 100 GB from a slow disk and compiles kernels.
START_S: Final = 1800.0
#: Seconds between two requests of /health while it starts, and the time limit of one.
HEALTH_S: Final = 0.5
HEALTH_LIMIT_S: Final = 5.0
#: Seconds between such requests while it serves, and how many in a row may fail before it counts as hung (guess).
WATCH_S: Final = 5.0
WATCH_MISSES: Final = 6
#: GiB of KV cache on a CPU, unless the environment sets it (guess: leaves a laptop usable).
CPU_KV_GIB: Final = "2"
#: Sequences decoded at once: vLLM's own default on most GPUs.
DEFAULT_SLOTS: Final = 256

#: The first module works in all builds of 0.10 to 0.32.  ``cli.main``, and so the ``vllm_supervisor`` script, needs the
#: metadata of a distribution called ``vllm_supervisor``, and the CPU build has another name.
_MODULES: Final = (
    ("vllm/entrypoints/openai/api_server.py", ("-m", "vllm.entrypoints.openai.api_server")),
    ("vllm/entrypoints/cli/main.py", ("-m", "vllm.entrypoints.cli.main", "serve")),
)
_PROBE: Final = (
    "import importlib.util as u, sys; s = u.find_spec('vllm'); "
    "print(s.submodule_search_locations[0] if s else ''); sys.exit(not s)"
)


def child_environment(base: Mapping[str, str], key: str, offline: bool) -> dict[str, str]:
    """The environment of the child: no telemetry, no prompts in the log, no debug switches from this shell."""
    environment = {
        name: value
        for name, value in base.items()
        if not name.startswith(("VLLM_DEBUG", "VLLM_TRACE", "VLLM_SERVER_DEV", "VLLM_ALLOW", "P2PNODE_", "PYTHONPATH"))
    }
    environment |= {
        "VLLM_API_KEY": key,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    # Without this the CPU build reserves most of the machine's memory; other builds ignore it.
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_KV_GIB)
    if offline:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return environment


def child_arguments(spec: ModelSpec, port: int, slots: int) -> list[str]:
    """The command line of vLLM; ``spec.options`` are its own flags without the dashes, and win."""
    flags = {
        "model": spec.source or spec.name,
        "served-model-name": spec.name,
        "host": "127.0.0.1",
        "port": str(port),
        "max-num-seqs": str(slots),
        "no-enable-log-requests": "",
        "disable-uvicorn-access-log": "",
        "no-trust-remote-code": "",
        # No request may make the engine fetch a URL, so only a domain is allowed that cannot exist (RFC 2606).
        "allowed-media-domains": "media.invalid",
    }
    if spec.context:
        flags["max-model-len"] = str(spec.context)
    if spec.revision and not Path(spec.source).is_dir():
        flags["revision"] = spec.revision
    forbidden = {"trust-remote-code", "host", "port", "api-key", "enable-log-requests"} & set(spec.options)
    if forbidden:
        raise ValueError(f"engine option {forbidden.pop()!r} is not allowed: this node sets it itself; remove it")
    arguments = []
    for name, value in (flags | dict(spec.options)).items():
        arguments += [f"--{name}", value] if value else [f"--{name}"]
    return arguments


async def find_server(python: str) -> tuple[str, ...]:
    """The arguments with which this interpreter starts vLLM's server; raises ``EngineFailed`` if it cannot."""
    try:
        result = await trio.run_process([python, "-c", _PROBE], capture_stdout=True, check=False)
    except OSError as error:
        raise EngineFailed(
            503, "engine_missing", f"{python} cannot be run ({error}); correct the interpreter"
        ) from error
    folder = Path(result.stdout.decode().strip() or "/nonexistent").parent
    for file, arguments in _MODULES:
        if await trio.Path(folder / file).exists():
            return arguments
    message = f"{python} has no vLLM; install it there (pip install vllm) or name another interpreter"
    raise EngineFailed(503, "engine_missing", message)


def free_port() -> int:
    """A loopback port that was free a moment ago; if another program takes it, the restart picks another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class VllmEngine:
    """See the module's docstring.  It serves one model; the child's log goes to ``folder``."""

    name = "vllm"
    simulated = False

    def __init__(
        self,
        spec: ModelSpec,
        python: str,
        folder: Path,
        *,
        gpus: tuple[Gpu, ...] = (),
        runtime: str = "cuda",
        slots: int = DEFAULT_SLOTS,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._spec = spec
        self._python = python
        self._log = folder / "vllm.log"
        self._gpus = gpus
        self._slots = int(spec.options.get("max-num-seqs", slots))
        self._environment = os.environ if environment is None else environment
        self._salt_key = secrets.token_bytes(32)
        self._server: OpenAIEngine | None = None
        self._changes = Changes()
        #: URL and key of the child while it runs, for direct requests.
        self.endpoint: tuple[str, str] | None = None
        #: The process group of the child.
        self.group = 0
        self.restarts = 0
        self.runtime = runtime
        self.state: EngineState = "starting"
        self.problem = f"vLLM is starting with {spec.name}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        pause = RESTART_FIRST_S
        try:
            while True:
                begun = trio.current_time()
                try:
                    problem = await self._run_child()
                except (EngineFailed, OSError, ValueError) as error:
                    problem = error.message if isinstance(error, EngineFailed) else str(error)
                if trio.current_time() - begun > STEADY_S:
                    pause = RESTART_FIRST_S
                self._become("failed", f"{problem}; starting it again in {pause:.0f} s")
                await trio.sleep(pause)
                pause = min(2 * pause, RESTART_MOST_S)
                self.restarts += 1
        finally:
            self._become("stopped", "")

    async def _run_child(self) -> str:
        """Start a child and serve until it ends; returns the reason of its end in one line."""
        self._become("starting", f"vLLM is starting with {self._spec.name}")
        module = await find_server(self._python)
        key, port = secrets.token_urlsafe(32), free_port()
        command = [self._python, *module, *child_arguments(self._spec, port, self._slots)]
        offline = await trio.Path(self._spec.source).is_dir()
        code = 0
        async with child(command, child_environment(self._environment, key, offline), self._log) as process:
            self.group = process.pid
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, process, f"http://127.0.0.1:{port}", key)
                code = await process.wait()
                nursery.cancel_scope.cancel()
        self._server, self.endpoint, self.group = None, None, 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"vLLM {how}: {process.last_error()} (log: {self._log})"

    async def _serve(self, process: Child, url: str, key: str) -> None:
        if not await self._healthy(url):
            process.stop()
            return
        server = OpenAIEngine(
            url,
            (self._spec,),
            gpus=self._gpus,
            runtime=self.runtime,
            key=key,
            slots=self._slots,
            salt=self._salt,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            nursery.start_soon(self._watch, process, url)
            self._server, self.endpoint = server, (url, key)
            seen = None
            while True:
                seen = await server.wait_changed(seen)
                self._become(server.state, server.problem)

    async def _healthy(self, url: str) -> bool:
        """Wait until the child answers; meanwhile ``problem`` shows the elapsed seconds."""
        begun = trio.current_time()
        with trio.move_on_after(START_S), closing(Upstream(url)) as upstream:
            while True:
                try:
                    status, _ = await upstream.get("/health", HEALTH_LIMIT_S)
                    if status == 200:
                        return True
                except (UpstreamBroken, trio.TooSlowError):
                    pass
                self.problem = f"vLLM is loading {self._spec.name} since {trio.current_time() - begun:.0f} s"
                await trio.sleep(HEALTH_S)
        return False

    async def _watch(self, process: Child, url: str) -> None:
        """End a child that no longer answers; ``run`` then starts the next one."""
        misses = 0
        with closing(Upstream(url)) as upstream:
            while misses < WATCH_MISSES:
                await trio.sleep(WATCH_S)
                try:
                    status, _ = await upstream.get("/health", HEALTH_LIMIT_S)
                    misses = 0 if status == 200 else misses + 1
                except (UpstreamBroken, trio.TooSlowError):
                    misses += 1
        process.stop()

    def _salt(self, client: str) -> str:
        """One salt per client: with a shared cache, the time to first token would reveal the prompts of others."""
        return hmac.new(self._salt_key, client.encode(), hashlib.sha256).hexdigest()[:32]

    def _become(self, state: EngineState, problem: str) -> None:
        self.state, self.problem = state, problem
        self._changes.announce()

    def offers(self) -> tuple[ModelOffer, ...]:
        return self._server.offers() if self._server is not None and self.state == "ready" else ()

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus

    def load(self) -> Load:
        return self._server.load() if self._server is not None else Load()

    async def wait_changed(self, seen: int | None = None) -> int:
        return await self._changes.wait(seen)

    def open(self, job: EngineJob) -> AbstractAsyncContextManager[EngineReply]:
        if self._server is None:
            raise EngineFailed(503, "engine_not_ready", self.problem)
        return self._server.open(job)
