"""A daemon that answers what it is told to, on a real socket."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATUS: dict[str, Any] = {
    "peer_id": "12D3KooWFhXabcdefghijkmnopqrstuvwxyz123456789ABCDEFG",
    "name": "ada",
    "version": "0.1.0",
    "uptime_s": 75.0,
    "ready": True,
    "listen": ["/ip4/10.0.0.7/tcp/4411/p2p/12D3KooWFhX"],
    "api": "http://127.0.0.1:8411/v1",
    "auth": "key",
    "engine": {"name": "mock", "state": "ready", "problem": "", "simulated": True},
    "gpus": [{"model": "RTX 4090", "count": 2, "vram_mib": 24564}],
    "models": [{"name": "mock-8b"}],
    "peers": {"alive": 3, "linked": 2, "known": 4},
    "jobs": {"running": 1, "completed": 5, "failed": 0},
    "gossip": {"out_bytes_s": 300.0, "budget_bytes_s": 8192},
    "policy": "neuralgrid",
    "problems": [],
}


PEER: dict[str, Any] = {
    "id": "12D3KooWFhX",
    "short": "ABCDEFGH",
    "name": "ada",
    "self": False,
    "state": "alive",
    "route": "direct",
    "gpus": [{"model": "NVIDIA GeForce RTX 4090", "count": 1, "vram_mib": 24564}],
    "vram_total_mib": 24564,
    "vram_free_mib": 12282,
    "load": {"running": 1, "waiting": 2},
    "models": [{"name": "b", "state": "on disk"}, {"name": "a", "state": "resident"}],
    "rtt_ms": 1.26,
    "advert_age_s": 12.0,
}


MODEL: dict[str, Any] = {
    "id": "mock-8b",
    "object": "model",
    "p2pnode": {
        "peers": 4,
        "warm": 3,
        "sleeping": 0,
        "on_disk": 1,
        "context_length": 8192,
        "quantization": "bf16",
        "price_in": 0,
        "price_out": 0.5,
        "fingerprint": "00" * 16,
        "simulated": True,
        "expected_wait_s": 0.0421,
    },
}


ROUTE: dict[str, Any] = {
    "model": "mock-8b",
    "policy": "neuralgrid",
    "candidates": [
        {
            "peer": "12D3KooWFhX",
            "short": "ABCDEFGH",
            "name": "ada",
            "score": 1.25,
            "warm": True,
            "rtt_ms": 0.8,
            "odds": 0.91,
            "needs": [],
            "link": "standing",
            "terms": [
                {
                    "name": "bandwidth",
                    "value": 1008.0,
                    "unit": "GB/s",
                    "source": "declared",
                    "age_s": 3.0,
                    "contribution": 0.75,
                }
            ],
        }
    ],
    "excluded": [{"peer": "12D3KooWXyz", "short": "HGFEDCBA", "reason": "dead", "detail": "3 missed probes"}],
}


CHUNKS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "Hel"}}]},
    {"choices": [{"delta": {"content": "lo"}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"completion_tokens": 2}},
]


class FakeDaemon(ThreadingHTTPServer):
    """Answers by path from ``answers``; ``(status, body)``, a list of events, or bytes sent as they are."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str, Any, str | None]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    server: FakeDaemon

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append(
            (self.command, self.path, json.loads(body) if body else None, self.headers.get("authorization"))
        )
        answer = self.server.answers.get(
            self.path, (404, {"error": {"message": "no such thing", "code": "unknown_url"}})
        )
        if isinstance(answer, list):
            self.send_response(200)
            for name, value in (
                ("x-request-id", "req_1"),
                ("x-p2pnode-peer", "ABCDEFGH"),
                ("x-p2pnode-route", "direct"),
            ):
                self.send_header(name, value)
            self.end_headers()
            for event in answer:
                raw = event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
                self.wfile.write(raw)
            return
        status, document = answer
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.send_header("x-request-id", "req_1")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass
