"""The client of the command line: whom it could not reach, and what an error of the API says."""

from __future__ import annotations

import socket

import pytest

from p2pnode.cli.client import Api, ApiError
from p2pnode.cli.exits import Exit
from tests.p2pnode.cli.fake_daemon import FakeDaemon


def test_the_client_names_whom_it_could_not_reach() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Exit, match="no p2pnode daemon"):
        Api(base).get("/v1/models")
    with pytest.raises(Exit, match="no p2pnode daemon"), Api(base).stream("/v1/chat/completions", {}):
        pass


def test_the_client_keeps_status_code_and_headers_of_an_error(daemon: FakeDaemon) -> None:
    daemon.answers["/x"] = (503, {"error": {"message": "all busy", "code": "no_capacity"}})
    with pytest.raises(ApiError) as caught:
        Api(daemon.base).get("/x")
    assert (caught.value.status, caught.value.code) == (503, "no_capacity")
    assert caught.value.headers["x-request-id"] == "req_1"
