"""Sets up the log: one line per event on stderr, readable on a terminal and JSON elsewhere, without secrets.

``event`` names are stable snake_case words that scripts may rely on; ids are fields (``request_id``, ``job_id``,
``peer``).  Prompts and answers are never logged.  Secrets are removed by value, also from the messages of libraries.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Final, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "pretty", "json"]

HIDDEN: Final = "[secret]"
#: Loggers of libraries and their least level: at INFO libp2p writes several lines per connection.
_LIBRARIES: Final = {
    "libp2p": logging.CRITICAL,
    "multiaddr": logging.CRITICAL,
    "async_service": logging.CRITICAL,
    "hypercorn": logging.ERROR,
    "quart": logging.ERROR,
    "trio": logging.ERROR,
    "asyncio": logging.ERROR,
}


class Secrets:
    """The secret values of this process, which must not reach a log."""

    def __init__(self) -> None:
        self._values: tuple[str, ...] = ()

    def add(self, value: str | bytes) -> None:
        """Add a value; of bytes it is their hexadecimal form."""
        text = value if isinstance(value, str) else value.hex()
        if len(text) >= 8 and text not in self._values:  # a shorter one would hide parts of ordinary words
            self._values = (*self._values, text)

    def hide(self, text: str) -> str:
        """The text without secrets."""
        for value in self._values:
            if value in text:
                text = text.replace(value, HIDDEN)
        return text

    def scrub(self, value: object) -> object:
        """Remove secrets from any value of a log line."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, bytes):
            return self.hide(value.decode("utf-8", "replace"))
        if isinstance(value, Mapping):
            return {self.scrub(key): self.scrub(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.scrub(item) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.hide(str(value))


#: The secrets of this process.
SECRETS: Final = Secrets()


def _scrubbed(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: SECRETS.scrub(value) for key, value in event.items()}


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return SECRETS.hide(msgspec.json.encode(event, enc_hook=str).decode())


def _pretty(colors: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )


def set_up(format: Format = "auto", level: str = "info", stream: TextIO | None = None, *, color: bool = True) -> None:
    """Send structlog and the standard library's loggers to ``stream`` (stderr) in one form.

    Only a terminal gets colours, and only with ``color`` and without ``NO_COLOR``.
    """
    sink = stream or sys.stderr
    terminal = sink.isatty()
    as_json = format == "json" or (format == "auto" and not terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if as_json
        else structlog.processors.TimeStamper("%H:%M:%S"),
        *([structlog.processors.format_exc_info] if as_json else []),
        _scrubbed if as_json else _scrubbed_but_exceptions,
    ]
    renderer: Processor = _as_json if as_json else _pretty(terminal and color and "NO_COLOR" not in os.environ)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(_Scrubbing(sink)),  # type: ignore[arg-type]  # it only writes
        cache_logger_on_first_use=False,
    )
    _route_standard_library(sink, shared, renderer, level)


def _scrubbed_but_exceptions(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Leave the traceback to the console renderer, which formats it; ``_Scrubbing`` then hides its secrets."""
    exc_info = event.pop("exc_info", None)
    scrubbed = _scrubbed(logger, method, event)
    return scrubbed if exc_info is None else {**scrubbed, "exc_info": exc_info}


class _Scrubbing:
    """A text stream that hides secrets in its output; it is the last step before stderr."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink

    def write(self, text: str) -> int:
        return self._sink.write(SECRETS.hide(text))

    def flush(self) -> None:
        self._sink.flush()


def _route_standard_library(sink: TextIO, shared: list[Processor], renderer: Processor, level: str) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    root_output: logging.Handler = logging.StreamHandler(_Scrubbing(sink))
    root_output.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(getattr(old, "stream", None), _Scrubbing):
            root.removeHandler(old)
    root.addHandler(root_output)
    root.setLevel(logging.getLevelNamesMapping()[level.upper()])
    for name, least in _LIBRARIES.items():
        logging.getLogger(name).setLevel(least)
