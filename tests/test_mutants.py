"""The sample of mutants: what it changes, what it leaves alone, and what it finds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import mutants

ROOT = Path(__file__).parent.parent

MODULE = '''\
"""Prices."""
LIMIT: int = 10


def price(count: int = 1, *, free: bool = False) -> int:
    """What so many cost."""
    assert count >= 0, f"{count + 1}"
    if free and not count > LIMIT:
        return 0
    total = count * 3
    return total
'''
TESTS = """\
from shop.prices import price

def test_price():
    assert price(2) == 6
    assert price(2, free=True) == 0
"""


def lines(source: str) -> set[str]:
    """The changed lines of all mutants."""
    return {
        line
        for _, mutant in mutants.mutants(source)
        for line, old in zip(mutant.splitlines(), source.splitlines(), strict=True)
        if line != old
    }


def test_it_changes_operators_constants_conditions_and_statements() -> None:
    assert lines(MODULE) == {
        "LIMIT: int = 11",
        "def price(count: int = 2, *, free: bool = False) -> int:",
        "def price(count: int = 1, *, free: bool = True) -> int:",
        "    if not (free and (not count > LIMIT)):",
        "    if free or not count > LIMIT:",
        "    if free and (count > LIMIT):",
        "    if free and not count >= LIMIT:",
        "        return None",
        "        return 1",
        "    pass",
        "    total = count / 3",
        "    total = count * 4",
        "    return None",
    }


def test_it_counts_bytes_where_a_line_has_other_letters() -> None:
    assert lines('def f(x):\n    return g("é€", x + 1)\n') == {
        "    return None",
        '    return g("é€", x - 1)',
        '    return g("é€", x + 2)',
    }


@pytest.mark.slow
def test_every_mutant_of_the_protocol_is_python() -> None:
    for path in (ROOT / "protocol").rglob("*.py"):
        for _, mutant in mutants.mutants(path.read_text(encoding="utf-8"))[::20]:
            compile(mutant, str(path), "exec")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, text in (("shop/prices.py", MODULE), ("tests/shop/test_prices.py", TESTS)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of the shop without a pytest of their own for each mutant."""

    def killed(copy: Path, runs: list[list[str]], limit_s: float) -> bool:
        names: dict[str, Any] = {}
        try:
            exec((copy / "shop/prices.py").read_text(), names)
            return bool(names["price"](2) != 6 or names["price"](2, free=True) != 0)
        except Exception:
            return True

    monkeypatch.setattr(mutants, "killed", killed)


@pytest.mark.usefixtures("quick")
def test_it_shows_what_survives_and_leaves_the_tree_alone(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["shop/prices.py", "--n", "99"], shop) == 1
    shown = capsys.readouterr().out
    # Nothing asks for a default count or for a count near the limit.
    assert "SURVIVED shop/prices.py:2\n" in shown
    assert "-LIMIT: int = 10\n+LIMIT: int = 11\n" in shown
    assert "killed   shop/prices.py:10\n" in shown
    assert "count * 4" not in shown
    assert "shop/prices.py: 10 of 13 mutants killed (of 13 possible, seed 1)" in shown
    assert (shop / "shop/prices.py").read_text() == MODULE
    assert {path.name for path in shop.iterdir()} == {".git", "shop", "tests"}


@pytest.mark.usefixtures("quick")
def test_a_seed_names_a_sample(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for seed in ("1", "1", "2"):
        mutants.main(["shop/prices.py", "--n", "4", "--seed", seed], shop)
        shown.append(capsys.readouterr().out.replace(f"seed {seed}", ""))
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.usefixtures("quick")
def test_tests_that_fail_anyway_are_no_measure(shop: Path) -> None:
    (shop / "shop/prices.py").write_text("def price(count):\n    return 7\n")
    with pytest.raises(SystemExit, match=r"fail without a mutant: pytest tests/shop/test_prices\.py"):
        mutants.main(["shop/prices.py"], shop)


@pytest.mark.slow
@pytest.mark.parametrize(("test", "code"), [("price(2) == 6", 0), ("price(2) != 5", 1)])
def test_pytest_says_what_is_killed(shop: Path, test: str, code: int) -> None:
    (shop / "shop/prices.py").write_text("def price(count):\n    return count * 3\n")
    (shop / "tests/shop/test_prices.py").write_text(
        f"from shop.prices import price\n\ndef test_it():\n    assert {test}\n"
    )
    assert mutants.main(["shop/prices.py", "--n", "1"], shop) == code


def test_a_modules_own_tests_come_first() -> None:
    file = Path("protocol/jobs/cascade.py")
    own = "tests/protocol/jobs/test_cascade.py"
    assert mutants.stages(ROOT, file, []) == [[own], ["tests/protocol/jobs", f"--ignore={own}"]]
    assert mutants.stages(ROOT, file, ["tests/e2e", "tests/fullstack"]) == [["tests/e2e"], ["tests/fullstack"]]
