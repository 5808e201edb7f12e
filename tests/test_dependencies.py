"""The declared dependencies are the imported ones, and constraints.txt pins them with everything that they need."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("protocol", "p2pnode", "bootstrap", "simulations")
#: The simulator draws with matplotlib where it is installed.
OPTIONAL = {"matplotlib"}
#: Runs in an environment of its own, which its test makes.
OWN_ENVIRONMENT = ROOT / "tests" / "clients" / "openai_python.py"
#: The one pin that constraints.txt overrides: 2.3.2 has no wheel and needs a compiler and the GMP headers.
OVERRIDDEN = ("libp2p", "fastecdsa")
PLATFORMS = [
    {"sys_platform": system.lower(), "platform_system": system, "python_version": version}
    | {"python_full_version": f"{version}.0", "os_name": "posix"}
    for system in ("Linux", "Darwin")
    for version in ("3.11", "3.12", "3.13")
]


def declared(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported(*folders: str) -> set[str]:
    """The distributions that the files of these folders import."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != OWN_ENVIRONMENT):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    found -= {*PACKAGES, "tests", *sys.stdlib_module_names}
    owners = metadata.packages_distributions()
    return {canonicalize_name(owners[name][0]) for name in found}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def needs(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a distribution needs on any of the platforms, of those extras."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        choices = [platform | {"extra": extra} for platform in PLATFORMS for extra in extras | {""}]
        if requirement.marker is None or any(requirement.marker.evaluate(choice) for choice in choices):
            yield requirement


def closure() -> Iterator[tuple[str, Requirement]]:
    """Everything that the project, its tests and its pictures need, each with the distribution that needs it."""
    extras = PROJECT["optional-dependencies"]
    waiting = [("p2pnode", Requirement(text)) for text in PROJECT["dependencies"] + extras["sim"] + extras["dev"]]
    seen = set()
    while waiting:
        parent, requirement = waiting.pop()
        yield parent, requirement
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) not in seen:
            seen.add((name, wanted))
            waiting += [(name, each) for each in needs(name, wanted)]


def test_the_dependencies_are_those_that_the_code_imports() -> None:
    assert declared(PROJECT["dependencies"]) == imported(*PACKAGES) - OPTIONAL
    assert declared(PROJECT["optional-dependencies"]["sim"]) == OPTIONAL


def test_the_tests_import_what_is_declared() -> None:
    assert imported("tests") <= declared(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])


def test_constraints_list_every_package_that_is_needed_and_no_other() -> None:
    assert pins().keys() == {canonicalize_name(requirement.name) for _, requirement in closure()}


def test_constraints_fit_all_requirements_but_the_overridden_one() -> None:
    versions = pins()
    wrong = {
        (parent, name)
        for parent, requirement in closure()
        if not requirement.specifier.contains(versions[name := canonicalize_name(requirement.name)], prereleases=True)
    }
    # Fails, too, when libp2p moves its pin: then the override goes, here and in constraints.txt.
    assert wrong == {OVERRIDDEN}


def test_the_environment_has_the_versions_of_the_constraints() -> None:
    assert {name: metadata.version(name) for name in pins()} == pins(), "run: touch constraints.txt && make check"
