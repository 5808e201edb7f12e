"""Errors of the protocol.  The docstring of a class is the message to the user; the argument adds details.

``LocalProtocolError`` means that this node broke the rules (a bug), ``RemoteProtocolError`` that the peer did.  Only
the second earns penalty points (the distinction is h11's).
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Abstract: raise one of its subclasses."""

    def __init__(self, detail: str = "") -> None:
        if type(self) is ProtocolError:
            raise TypeError("ProtocolError is abstract")
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        message = (type(self).__doc__ or "").strip()
        return f"{message} ({self.detail})" if self.detail else message


class LocalProtocolError(ProtocolError):
    """This node tried to do something that the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow.

    ``blame`` is how many penalty points the sender of the bytes earns (see ``README.md``, "Order of validation").
    """

    blame: int = 1

    def __str__(self) -> str:
        message = (type(self).__doc__ or "").strip().splitlines()[0]
        return f"{message} ({self.detail})" if self.detail else message


class InvalidPeerId(LocalProtocolError):
    """This is not a peer id; it should look like 12D3KooW… and be copied whole."""


class BadFrame(RemoteProtocolError):
    """The peer sent a frame that is malformed, too long or not allowed here."""


class BadEnvelope(RemoteProtocolError):
    """The peer relayed a statement whose signature, length or header is wrong."""


class UnknownStatement(RemoteProtocolError):
    """The statement is of a kind, or says something, that this version of the protocol does not understand."""

    blame = 0


class CreditExceeded(RemoteProtocolError):
    """The peer sent more than it had credit for."""


class StaleStatement(RemoteProtocolError):
    """The statement is older than one already seen, or too old or too far in the future to be used."""

    blame = 0
