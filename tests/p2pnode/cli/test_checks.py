"""The report of the doctor: it can be posted in public."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from p2pnode.cli import checks


def test_a_report_can_be_posted_in_public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-machine")
    from p2pnode.state.paths import find_paths

    redact = checks.redaction(find_paths(None))
    text = redact(
        f"{tmp_path}/node.key on secret-machine at /ip4/203.0.113.7/tcp/4411/p2p/"
        "12D3KooWFhXabcdefghijkmnopqrstuvwxyz123456789ABCDEFG, fe80:0:0:0:1:2:3:4, /dns4/my.example.org/tcp/1, "
        "127.0.0.1"
    )
    for secret in (str(tmp_path), "secret-machine", "203.0.113.7", "FhXabc", "fe80", "my.example.org"):
        assert secret not in text
    assert "127.0.0.1" in text
