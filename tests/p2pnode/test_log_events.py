"""Event names in the log are words that scripts may rely on; variable facts travel in fields."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted(path for package in ("p2pnode", "bootstrap") for path in (ROOT / package).rglob("*.py"))
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
FACTORIES = {"get_logger", "getLogger"}
WORD = re.compile(r"[a-z][a-z0-9_]*")
#: The keywords of a call to a logger of the standard library; its fields are the keys of ``extra``.
STANDARD = {"extra", "exc_info", "stack_info"}


def loggers(tree: ast.Module) -> dict[str, bool]:
    """The variables that hold a logger, and whether it is one of the standard library."""
    return {
        target.id: node.value.func.attr == "getLogger"
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr in FACTORIES
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def events(tree: ast.Module) -> list[tuple[ast.Call, bool]]:
    """The calls that log, and whether the logger is one of the standard library."""
    known = loggers(tree)
    return [
        (node, known[node.func.value.id])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in known
    ]


def complaint(call: ast.Call, standard: bool) -> str:
    """What is wrong with one call; empty if nothing is."""
    if len(call.args) != 1 or not isinstance(call.args[0], ast.Constant):
        return "log one constant event name; facts belong into fields"
    if not WORD.fullmatch(str(call.args[0].value)):
        return f"{call.args[0].value!r} is not one snake_case word"
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if not standard:
        return "structlog takes fields as keywords, not as extra" if "extra" in keywords else ""
    if not keywords.keys() <= STANDARD:
        return "a logger of the standard library takes fields in extra"
    fields = keywords.get("extra", ast.Dict(keys=[], values=[]))
    if not isinstance(fields, ast.Dict) or not all(
        isinstance(key, ast.Constant) and WORD.fullmatch(str(key.value)) for key in fields.keys
    ):
        return "extra is a dictionary whose keys are snake_case words"
    return ""


def test_every_event_is_one_word_and_its_facts_are_fields() -> None:
    problems = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {problem}"
        for path in SOURCES
        for call, standard in events(ast.parse(path.read_text(encoding="utf-8")))
        if (problem := complaint(call, standard))
    ]
    assert not problems


def escapes(tree: ast.Module) -> list[int]:
    """Lines that log through something else than a variable that holds a logger."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    through = [(call, ast.unparse(call.func.value)) for call in calls if call.func.attr in LEVELS]
    return [
        call.lineno
        for call, source in through
        if source in {"logging", "structlog"} or source.startswith("self.") or any(name in source for name in FACTORIES)
    ]


def test_every_call_that_logs_goes_through_a_variable_that_holds_a_logger() -> None:
    found = {path: escapes(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert not {str(path): lines for path, lines in found.items() if lines}
    assert escapes(ast.parse('logging.info("a")\nlogging.getLogger("x").info("b")\nself._log.info("c")')) == [1, 2, 3]


def test_the_search_finds_the_loggers_of_both_libraries() -> None:
    found = [standard for path in SOURCES for _, standard in events(ast.parse(path.read_text(encoding="utf-8")))]
    assert found.count(True) > 15
    assert found.count(False) > 10


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('log.info("a job of %s ended", peer)', "log one constant"),
        ('log.info(f"job {job}")', "log one constant"),
        ('log.info("A job ended")', "not one snake_case word"),
        ('log.info("job_ended", peer=peer)', "in extra"),
        ('log.info("job_ended", extra={"Peer": peer})', "whose keys"),
        ('log.info("job_ended", extra=fields)', "whose keys"),
        ('log.info("job_ended", extra={"peer": peer}, exc_info=True)', ""),
    ],
)
def test_each_wrong_form_is_told(line: str, problem: str) -> None:
    ((call, standard),) = events(ast.parse(f"log = logging.getLogger(__name__)\n{line}"))
    found = complaint(call, standard)
    assert (problem in found) if problem else not found
