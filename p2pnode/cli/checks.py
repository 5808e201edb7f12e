"""The checks of ``p2pnode doctor``.  Each one is a function that yields findings and raises for none of them.

A finding that is not ``ok`` says what to do.  The checks need no daemon, because a node that does not start is the
usual reason to run them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from p2pnode.hardware.probe import survey
from p2pnode.swarm.library_check import PINNED

if TYPE_CHECKING:
    from p2pnode.config import Config
    from p2pnode.state.paths import Paths

#: Seconds for a connection to a bootstrap peer or an engine (guess: three slow intercontinental round trips).
CONNECT_S: Final = 3.0
#: Open files of a node: 256 inbound links, 200 HTTP connections, the database, and some reserve.
FILES: Final = 1024
#: 2026-01-01: a clock that shows a time before this program's release is wrong.
RELEASED: Final = 1767225600


@dataclass(frozen=True)
class Finding:
    """One line of the report.  ``state`` is ``ok``, ``warn`` (it works with a problem) or ``fail``."""

    name: str
    state: str
    what: str
    fix: str = ""


def ok(name: str, what: str) -> Finding:
    return Finding(name, "ok", what)


def warn(name: str, what: str, fix: str) -> Finding:
    return Finding(name, "warn", what, fix)


def fail(name: str, what: str, fix: str) -> Finding:
    return Finding(name, "fail", what, fix)


def all_checks(config: Config, paths: Paths, daemon: dict[str, object] | None) -> Iterator[Finding]:
    """Run all checks.  ``daemon`` is the status of the running daemon, if one answers."""
    yield from python()
    yield from files(paths)
    yield from limits()
    yield from clock()
    yield from hardware()
    yield from engine(config)
    if daemon is None:
        yield warn("daemon", "no daemon runs with this home", "start it: p2pnode run")
        yield from ports(config)
    else:
        yield from running(daemon)
    yield from reach(config, daemon)
    yield from seeds(config, alone=daemon is None)


def python() -> Iterator[Finding]:
    """The interpreter, and libp2p, whose version must be exact."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield ok("python", version)
    try:
        found = importlib.metadata.version("libp2p")
    except importlib.metadata.PackageNotFoundError:
        yield fail("libp2p", "not installed", "pip install p2pnode, in a fresh environment")
        return
    if found == PINNED:
        yield ok("libp2p", found)
    else:
        yield fail("libp2p", f"{found}, but p2pnode needs {PINNED}", f"pip install libp2p=={PINNED}")


def files(paths: Paths) -> Iterator[Finding]:
    """The home and its secrets belong to this user, and other users cannot read them."""
    if not paths.home.exists():
        yield ok("home", f"{paths.home} (made at the first start)")
        return
    for name, path, wanted in (
        ("home", paths.home, 0o700),
        ("node key", paths.node_key, 0o600),
        ("api key", paths.api_key, 0o600),
    ):
        if not path.exists():
            continue
        about = path.stat()
        mode = stat.S_IMODE(about.st_mode)
        if about.st_uid != os.getuid():
            yield fail(name, f"{path} belongs to another user", f"sudo chown -R $(id -un) {paths.home}")
        elif mode & 0o077:
            yield fail(name, f"{path} can be read by others ({mode:o})", f"chmod {wanted:o} {path}")
        else:
            yield ok(name, f"{path} ({mode:o})")


def limits() -> Iterator[Finding]:
    """The limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= FILES:
        yield ok("open files", str(soft))
    else:
        yield warn("open files", f"only {soft} allowed", f"ulimit -n {min(hard, 4096)} before p2pnode run")


def clock() -> Iterator[Finding]:
    """The clock: peers ignore signed statements whose age is wrong by minutes."""
    if time.time() < RELEASED:
        yield fail("clock", time.strftime("%Y-%m-%d %H:%M"), "set the clock, e.g. sudo timedatectl set-ntp true")
        return
    answer = _output("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if answer == "no":
        yield warn(
            "clock", "not synchronised; peers ignore a node that is off by 2 minutes", "timedatectl set-ntp true"
        )
    else:
        state = "synchronised" if answer == "yes" else "plausible (timedatectl does not say whether it is synchronised)"
        yield ok("clock", state)


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def hardware() -> Iterator[Finding]:
    """The hardware that the probes find."""
    found = trio.run(survey)
    for gpu in found.gpus:
        yield ok("gpu", f"{gpu.model}, {gpu.vram_mib / 1024:.0f} GiB, {gpu.temperature_c} °C, driver {found.driver}")
    if not found.gpus:
        hung = next((problem for problem in found.problems if "did not answer" in problem), "")
        if hung:
            yield fail("gpu", hung, "look at nvidia-smi and dmesg; a reboot usually brings the driver back")
        else:
            yield ok("gpu", "none found: this node can be a gateway, or run --engine mock or openai")
    cpu = found.cpu
    yield ok("cpu", f"{cpu['model']}, {cpu['cores']} cores, {cpu['memory_mib'] / 1024:.0f} GiB")


def engine(config: Config) -> Iterator[Finding]:
    """Whether the configured engine could start."""
    kind, url = config.engine.kind, config.engine.url
    if kind == "openai":
        parts = urlsplit(url or "")
        reached = parts.hostname and _connects(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        if reached:
            yield ok("engine", f"{url} answers")
        else:
            yield fail("engine", f"no server answers at {url or 'no URL'}", "start the server, or correct --engine-url")
        return
    installed = importlib.util.find_spec("vllm") is not None
    if kind == "vllm" and not installed:
        yield fail("engine", "vLLM is not installed", "pip install 'p2pnode[vllm]', or choose another --engine")
    else:
        yield ok("engine", f"{kind}; vLLM is {'installed' if installed else 'not installed'}")


def ports(config: Config) -> Iterator[Finding]:
    """Whether the ports are free; run only if this home's daemon does not use them."""
    for address in config.network.listen:
        host, port = _tcp(address)
        yield from _port("port", host, port, "--listen /ip4/0.0.0.0/tcp/0")
    yield from _port("api port", *config.api_address, "--api 127.0.0.1:0")


def _port(name: str, host: str, port: int, instead: str) -> Iterator[Finding]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            fix = f"stop the program that listens there (ss -ltnp | grep {port}), or: p2pnode run {instead}"
            yield fail(name, f"{host}:{port} cannot be used: {error.strerror}", fix)
            return
    yield ok(name, f"{host}:{port} is free" if port else f"{host}, any port")


def running(status: dict[str, object]) -> Iterator[Finding]:
    """The daemon's own problems."""
    problems = status.get("problems")
    for problem in problems if isinstance(problems, list) else []:
        yield warn("daemon", str(problem["what"]), str(problem["fix"]))
    if not problems:
        yield ok("daemon", f"runs, version {status.get('version')}, API {status.get('api')}")


def reach(config: Config, daemon: dict[str, object] | None) -> Iterator[Finding]:
    """Whether other machines can possibly dial this one."""
    listen = daemon.get("listen") if daemon else None
    addresses = [str(address) for address in listen] if isinstance(listen, list) else list(config.network.listen)
    if addresses and all("/127." in address or "/::1/" in address for address in addresses):
        yield warn("reachable", "listens on loopback only: no other machine can join", "--listen /ip4/0.0.0.0/tcp/4411")
    else:
        yield ok("reachable", "behind a router? Then forward the port of: " + ", ".join(addresses[:2]))


def seeds(config: Config, *, alone: bool) -> Iterator[Finding]:
    """Whether the bootstrap peers accept a connection."""
    known = config.network.bootstrap
    if not known:
        fix = "p2pnode run --bootstrap ADDRESS, with the address that another node printed when it started"
        if alone:
            yield warn("bootstrap", "no bootstrap peer is configured", fix)
        else:
            yield ok("bootstrap", "none in the configuration file; `p2pnode status` lists the daemon's peers")
    for address in known:
        host, port = _tcp(address)
        if host and _connects(host, port):
            yield ok("bootstrap", f"{host}:{port} accepts connections")
        else:
            yield fail(
                "bootstrap", f"{host}:{port} does not answer", "is it running, and is the port open? Try another"
            )


def _connects(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), CONNECT_S):
            return True
    except OSError:
        return False


def _tcp(address: str) -> tuple[str, int]:
    parts = address.split("/")
    try:
        return parts[2], int(parts[4])
    except (IndexError, ValueError):
        return "", 0


def redaction(paths: Paths) -> Callable[[str], str]:
    """A function that replaces private parts of a text: paths, names, addresses, ids."""
    import getpass
    import re

    home, user, machine = str(Path.home()), getpass.getuser(), socket.gethostname()

    def redact(text: str) -> str:
        for secret, shown in ((str(paths.home), "<home>"), (home, "~"), (machine, "<host>")):
            text = text.replace(secret, shown) if len(secret) > 1 else text
        text = re.sub(rf"\b{re.escape(user)}\b", "<user>", text)
        text = re.sub(r"\b(?!127\.|0\.0\.0\.0)\d{1,3}(\.\d{1,3}){3}\b", "<ip>", text)
        text = re.sub(r"(?i)\b(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{0,4}\b", "<ip>", text)
        text = re.sub(r"(/dns[46]?/)[^/\s]+", r"\1<name>", text)
        return re.sub(r"\b12D3Koo\w+(\w{4})\b", r"12D3…\1", text)

    return redact
