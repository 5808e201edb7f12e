"""The exit codes of the verbs, and the exception that carries a code and a line for stderr."""

from __future__ import annotations

from typing import Final

import click

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_DAEMON: Final = 3
DEGRADED: Final = 4
INTERRUPTED: Final = 130


class Exit(click.ClickException):
    """End the verb.  ``message`` is the line for stderr and says what to do; empty if nothing is left to say."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        vars(self)["exit_code"] = code  # click declares it on the class and reads it from the instance


def failed(message: str) -> Exit:
    """The usual failure of a verb."""
    return Exit(FAILED, message)
