"""The house stands as it was drawn: who imports whom, how long things are, what they are called, what is shipped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "p2pnode", "bootstrap", "simulations")
TOP_LEVEL = {"p2pnode", "protocol", "bootstrap", "tests", "simulations", "pyproject.toml", "README.md"} | {
    "Makefile",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "constraints.txt",
    ".ci",
    ".github",
    ".pre-commit-config.yaml",
    ".gitignore",
}
#: A file, and the body of a function without its docstring, in lines.
MOST_LINES = 500
MOST_BODY_LINES = 60
#: Methods of a class (without ``__init__`` and its like), and attributes of a class with more than a few methods: one
#: with fewer is data.
MOST_METHODS = 25
MOST_ATTRIBUTES = 15
DATA_METHODS = 5
#: Classes above that, each with the reason why it is one class.
LARGE_CLASSES = {
    "protocol/dht/lookup.py:Lookup": "one search: its candidates, its hits and its deadline are read by every step",
    "protocol/gossip/gossip.py:Gossip": "push, digest and repair spend one budget on one set of links",
    "protocol/jobs/cascade.py:Cascade": "one state machine with a method for each transition of its table",
    "protocol/membership/overlay.py:Overlay": "one decision, whom to hold a link to, with a method for each rule of it",
    "protocol/membership/peer_view.py:PeerView": "one table: every statement and observation changes its columns",
    "protocol/perf/batch_engine.py:BatchEngine": "one batch: every event moves jobs, memory and the clock together",
    "protocol/wire/mux.py:Mux": "one link; the hot path keeps its counters as attributes of one object",
    "p2pnode/http/connection.py:Connection": "one socket: reading, writing and its end cancel each other",
    "p2pnode/status_view.py:StatusView": "shows every part of the node, so it holds a reference to every part",
    "p2pnode/swarm/driver.py:Driver": "the task that owns all machines of the node, and their timers",
    "p2pnode/swarm/peerlink.py:PeerLink": "one link: its reader, its writer and its end cancel each other",
    "p2pnode/swarm/swarm.py:Swarm": "the daemon's view of the network: effects of the machines, jobs and look-ups",
    "simulations/measure/sampling.py:Sampler": "one pass over the nodes fills all time series",
    "simulations/sim/endpoint.py:Endpoint": "the processor, the uplink, the downlink and the counters of one machine",
    "simulations/sim/job_log.py:JobLog": "counters of one run, and the events that move them",
    "simulations/sim/network.py:Network": "all links share the uplinks, the partitions and the order of events",
    "simulations/sim/worker.py:Worker": "drives admission and engine of one worker, and tells the entry",
}
FORBIDDEN_WORDS = {"utils", "util", "helpers", "helper", "common", "misc", "core", "manager", "handler", "service"}
PURE_IMPORTS = {"trio", "anyio", "asyncio", "socket", "ssl", "time", "random", "os", "pathlib", "libp2p", "httpx2"}


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).exists()]


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sources(*PACKAGES)]


def test_the_top_level_is_the_one_that_was_agreed() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_import_contracts_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_protocol_imports_nothing_that_waits_or_rolls_dice() -> None:
    for path in sources("protocol"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            assert not {name.split(".")[0] for name in names} & PURE_IMPORTS, f"{path}: {names}"


def test_no_file_is_longer_than_the_budget() -> None:
    long = {str(path): n for path in sources(*PACKAGES) if (n := len(path.read_text().splitlines())) > MOST_LINES}
    assert not long


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_no_function_is_longer_than_the_budget() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.name}": body_lines(node)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > MOST_BODY_LINES
    }
    assert not long


def methods_and_attributes(node: ast.ClassDef) -> tuple[int, int]:
    functions = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    fields = {
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
        if not {"ClassVar", "Final"} & {name.id for name in ast.walk(part.annotation) if isinstance(name, ast.Name)}
    }
    assigned = {
        part.attr
        for function in functions
        for part in ast.walk(function)
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
        if isinstance(part.value, ast.Name) and part.value.id == "self"
    }
    return sum(not function.name.startswith("__") for function in functions), len(fields | assigned)


def test_no_class_does_too_many_things() -> None:
    large = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods, attributes = methods_and_attributes(node)
                if methods > MOST_METHODS or (attributes > MOST_ATTRIBUTES and methods > DATA_METHODS):
                    large.add(f"{path.relative_to(ROOT)}:{node.name}")
    assert large == set(LARGE_CLASSES)


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path, tree in trees() if len(ast.get_docstring(tree) or "") < 20]
    assert not silent


def test_names_say_what_a_thing_does() -> None:
    found = []
    for path, tree in trees():
        if set(path.stem.split("_")) & FORBIDDEN_WORDS:
            found.append(str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                words = set("".join("_" + c.lower() if c.isupper() else c for c in node.name).split("_"))
                if words & FORBIDDEN_WORDS:
                    found.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert not found


#: Files that a document names although they are not in the repository: a node writes them, or another project has them.
NOT_HERE = {"config.toml", "compute/accelerator/README.md", "gossipsub-interop/network_graph.py"}
FILE = re.compile(r"[\w./-]*\w\.(py|md|toml|csv|txt|mjs)")
FOLDER = re.compile(rf"({'|'.join((*PACKAGES, 'tests'))})/[\w./-]*")
MODULE = re.compile(rf"({'|'.join((*PACKAGES, 'tests'))})(\.\w+)+")


def names_something(word: str, beside: Path, known: list[str]) -> bool:
    """Whether a file, a folder, or a module with one attribute of that name is in the repository."""
    if FILE.fullmatch(word):
        return word in NOT_HERE or any(name == word or name.endswith(f"/{word}") for name in known)
    if FOLDER.fullmatch(word):
        return (ROOT / word).exists() or (beside / word).exists()
    if MODULE.fullmatch(word):
        path = ROOT.joinpath(*word.split("."))
        module = path.parent.with_suffix(".py")
        attribute = module.is_file() and path.name in module.read_text(encoding="utf-8")
        return path.is_dir() or path.with_suffix(".py").is_file() or attribute
    return True


def test_documents_name_files_and_modules_that_exist() -> None:
    known = [str(path.relative_to(ROOT)) for path in tracked()]
    missing = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in tracked()
        if path.suffix == ".md" and path.name != "CHANGELOG.md"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for quoted in re.findall(r"`([^`]+)`", line)
        for word in (part.strip(".,;:()[]") for part in quoted.split())
        if not names_something(word, path.parent, known)
    ]
    assert not missing


@pytest.mark.parametrize("word", ["link.py", "swarm/door.py", "tests/p2pnode/test_keys.py", "protocol.crowd.Crowd"])
def test_a_name_of_something_that_moved_is_found(word: str) -> None:
    assert not names_something(word, ROOT, [str(path.relative_to(ROOT)) for path in tracked()])


# --- tests mirror the tree -------------------------------------------------------------------------------------------

#: Modules of ``p2pnode`` and ``simulations`` with so many lines of code have a test file of their name; those of
#: ``protocol`` always have one.
SMALL_LINES = 60
#: Modules without a test file of their own, by where their behaviour is tested instead.
TESTED_ELSEWHERE = {
    "nowhere: values without behaviour": "protocol/ arrays effects events rng settings jobs/cascade_events"
    " perf/forecast reputation/observation routing/job_query",
    "test_dht: a part of one machine": "protocol/dht/ links",
    "fullstack, e2e: a whole node": "p2pnode/ node status_view",
    "e2e: processes that are started": "p2pnode/cli/ demo_fleet options processes verbs/demo verbs/doctor verbs/run",
    "the engines that use them": "p2pnode/engine/ answers base child_reaper mock_text tiny_model upstream",
    "test_connection: whole requests": "p2pnode/http/ errors request",
    "test_dispatch, test_worker: their parts": "p2pnode/jobs/ attempts engine_slots guest_policy",
    "test_swarm, test_libp2p_defects: real links": "p2pnode/swarm/ tcp_listener connection_table libp2p_workarounds"
    " library_check yamux",
    "test_validation: values that may be wrong": "simulations/ scenario",
    "test_loading, test_compare, test_cli": "simulations/experiment/ campaign overrides progress schema tables",
    "test_invariants: one of them": "simulations/measure/ convergence",
    "test_report: one page is drawn and read": "simulations/report/ curves metrics page plot_catalog points"
    " svg_theme sweep_plots timelines",
    "test_network, test_node: what a node and a network are made of": "simulations/sim/ cluster endpoint host",
}
#: Tests that belong to no single module, as do those of the tree itself (``tests/test_*.py``).
WHOLE_SYSTEM = {
    *("attackers", "e2e", "fullstack", "clients", "bootstrap", "p2pnode/test_log_events.py", "p2pnode/test_package.py"),
    *("simulations/test_determinism.py", "simulations/report/test_report.py"),
}


def code_lines(path: Path) -> int:
    """Lines of code: no blank ones, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    code = {number for number, line in enumerate(text.splitlines(), 1) if line.strip() and line.strip()[0] != "#"}
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            code -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(code)


def mirrors(test: Path, module: Path) -> bool:
    """Whether a test file carries the name of the module: ``a/test_b.py`` or ``a/test_b_aspect.py`` for ``a/b.py``."""
    return test.parent == module.parent and f"{test.stem}_".startswith(f"test_{module.stem}_")


def test_every_module_has_tests_under_its_name() -> None:
    tests = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    listed = {
        Path(f"{folder}{name}.py")
        for folder, *names in (where.split() for where in TESTED_ELSEWHERE.values())
        for name in names
    }
    bare = {
        module
        for path in sources("protocol", "p2pnode", "simulations")
        for module in (path.relative_to(ROOT),)
        if not path.stem.startswith("__")
        and not any(mirrors(test, module) for test in tests)
        and (module.parts[0] == "protocol" or code_lines(path) > SMALL_LINES)
    }
    assert sorted(bare - listed) == [], "write tests/FOLDER/test_MODULE.py"
    assert sorted(listed - bare) == [], "no longer without tests of their own: take them off the list"


def test_every_test_file_has_the_name_of_a_module() -> None:
    modules = [path.relative_to(ROOT) for path in sources(*PACKAGES)]
    for path in (ROOT / "tests").rglob("test_*.py"):
        test = path.relative_to(ROOT / "tests")
        whole = len(test.parts) == 1 or test.parts[0] in WHOLE_SYSTEM or str(test) in WHOLE_SYSTEM
        assert whole or any(mirrors(test, module) for module in modules), f"{test} mirrors no module"


@pytest.mark.slow
def test_the_wheel_contains_the_four_packages_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    for needed in (
        *("bootstrap/seeds.toml", "protocol/README.md", "p2pnode/node.py", "protocol/tables/README.md"),
        "simulations/__main__.py",
        "simulations/costs.toml",
        "simulations/scenarios/base.toml",
    ):
        assert needed in names

    target = tmp_path / "fresh"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    record = next(target.glob("*.dist-info/RECORD")).read_text()
    installed = {line.split("/")[0] for line in record.splitlines() if line and "dist-info" not in line}
    assert installed <= {*PACKAGES, "bin", ".."}


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
