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
