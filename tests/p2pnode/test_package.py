"""The installed package: its parts agree in version, and a stranger called ``protocol`` is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import p2pnode


def test_versions_of_the_packages_agree() -> None:
    assert p2pnode.__version__ == p2pnode.protocol.__version__


@pytest.mark.parametrize(
    "stranger",
    [
        SimpleNamespace(__version__="0.37", __file__=p2pnode.protocol.__file__, PROTOCOL_VERSION=1),
        SimpleNamespace(
            __version__=p2pnode.__version__, __file__="/elsewhere/protocol/__init__.py", PROTOCOL_VERSION=1
        ),
        SimpleNamespace(__file__=None),
    ],
)
def test_a_stranger_called_protocol_is_refused_with_the_fix(stranger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2pnode, "protocol", stranger)
    with pytest.raises(ImportError, match="pip uninstall -y protocol"):
        p2pnode._check_sibling()
