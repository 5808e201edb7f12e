"""A fake daemon whose address and key are in the home that the verbs look into."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.p2pnode.cli.fake_daemon import FakeDaemon


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDaemon]:
    server = FakeDaemon()
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path))
    monkeypatch.delenv("P2PNODE_API_URL", raising=False)
    (tmp_path / "daemon.json").write_text(json.dumps({"api": server.base + "/v1"}))
    (tmp_path / "api-key").write_text("secret-key\n")
    (tmp_path / "api-key").chmod(0o600)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
