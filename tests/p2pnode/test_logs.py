"""One form for everybody's log lines, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from p2pnode import logs

SECRET = "sk-p2pnode-a-very-secret-value"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs.SECRETS, "_values", ())
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs._LIBRARIES}
    yield
    root.handlers[:] = before
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    structlog.reset_defaults()


def lines(sink: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_json_is_one_object_per_line_with_a_stable_event() -> None:
    sink = io.StringIO()
    logs.set_up("json", "info", sink)
    structlog.get_logger("x").info("job_ended", request_id="req_1", peer="abc", ms=1.5)
    structlog.get_logger("x").debug("not_shown")
    (line,) = lines(sink)
    assert (line["event"], line["level"], line["request_id"], line["ms"]) == ("job_ended", "info", "req_1", 1.5)
    assert str(line["timestamp"]).endswith("Z")


def test_auto_is_json_unless_a_person_looks() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    logs.set_up("auto", "info", pipe)
    structlog.get_logger().info("hello")
    logs.set_up("auto", "info", terminal)
    structlog.get_logger().info("hello")
    assert pipe.getvalue().startswith("{")
    assert "\x1b[" in terminal.getvalue()
    assert "hello" in terminal.getvalue()


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_secrets_are_hidden_wherever_they_are(form: logs.Format) -> None:
    sink = io.StringIO()
    logs.set_up(form, "debug", sink)
    logs.SECRETS.add(SECRET)
    logs.SECRETS.add(bytes(range(32)))
    log = structlog.get_logger("x")
    log.info(f"event with {SECRET}", header=f"Bearer {SECRET}", nested={"a": [SECRET, (SECRET,)]}, raw=SECRET.encode())
    log.info("hex", seed=bytes(range(32)).hex(), thing=ValueError(SECRET))
    logging.getLogger("some.library").warning("and %s", SECRET)
    try:
        raise RuntimeError(f"failed with {SECRET}")
    except RuntimeError:
        log.exception("trouble")
        logging.getLogger("some.library").exception("trouble")
    text = sink.getvalue()
    assert SECRET not in text
    assert bytes(range(32)).hex() not in text
    assert text.count(logs.HIDDEN) >= 6
    assert "RuntimeError" in text


def test_short_values_are_not_hidden() -> None:
    logs.SECRETS.add("word")
    assert logs.SECRETS.hide("a word") == "a word"


def test_the_libraries_are_quiet_and_speak_the_same_form() -> None:
    sink = io.StringIO()
    logs.set_up("json", "debug", sink)
    logging.getLogger("libp2p.transport.tcp").error("noise")
    logging.getLogger("hypercorn.error").info("Running on")
    logging.getLogger("quart.app").error("a defect")
    logging.getLogger("elsewhere").debug("detail %d", 7)
    assert [line["event"] for line in lines(sink)] == ["a defect", "detail 7"]


def test_setting_up_twice_does_not_say_everything_twice() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up("json", "info", first)
    logs.set_up("json", "info", second)
    logging.getLogger("elsewhere").warning("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_context_travels_with_the_task() -> None:
    sink = io.StringIO()
    logs.set_up("json", "info", sink)
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger().info("inside")
    assert lines(sink)[0]["request_id"] == "req_1"


@pytest.mark.parametrize(("color", "variable", "coloured"), [(True, "", True), (False, "", False), (True, "1", False)])
def test_colours_are_for_terminals_that_want_them(
    color: bool, variable: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable:
        monkeypatch.setenv("NO_COLOR", variable)
    sink = Terminal()
    logs.set_up("pretty", "info", sink, color=color)
    structlog.get_logger("x").info("job_ended", ms=1)
    logging.getLogger("trio").error("from a library")
    assert ("\x1b[" in sink.getvalue()) is coloured
    assert "job_ended" in sink.getvalue()
