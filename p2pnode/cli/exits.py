"""How a verb ends: the exit codes of the contract, and the one exception that carries a code and a line to stderr."""

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
    """The verb ends here.  ``message`` is the line for stderr and says what to do; empty when all was said."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        vars(self)["exit_code"] = code  # click declares it on the class and reads it from the instance


def failed(message: str) -> Exit:
    """The usual end of what did not work."""
    return Exit(FAILED, message)
