"""Errors are sentences for people, and say who is to blame."""

from __future__ import annotations

import pytest

from protocol import errors


def test_the_root_is_abstract() -> None:
    with pytest.raises(TypeError):
        errors.ProtocolError()


@pytest.mark.parametrize(
    "kind",
    [
        errors.LocalProtocolError,
        errors.InvalidPeerId,
        errors.RemoteProtocolError,
        errors.BadFrame,
        errors.BadEnvelope,
        errors.CreditExceeded,
        errors.StaleStatement,
        errors.UnknownStatement,
    ],
)
def test_the_docstring_is_the_message(kind: type[errors.ProtocolError]) -> None:
    first = (kind.__doc__ or "").splitlines()[0]
    assert str(kind()) == first
    assert str(kind("why")) == f"{first} (why)"
    assert kind("why").detail == "why"
    assert "\n" not in str(kind("why"))


def test_a_stale_statement_is_nobodys_fault() -> None:
    assert errors.StaleStatement.blame == errors.UnknownStatement.blame == 0
    assert errors.BadEnvelope.blame == errors.BadFrame.blame == errors.CreditExceeded.blame == 1
