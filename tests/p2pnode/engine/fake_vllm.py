"""Stands in for an interpreter that has vLLM: ``fake_vllm.py -c PROBE`` or ``fake_vllm.py -m MODULE --port …``.

A real process with a child of its own that ignores SIGTERM, so that supervision is tested against the worst.  What it
does is decided by the file ``behaviour`` beside its copy: ``ok``, ``die`` (at the start), ``hang`` (after the start).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOME = Path(sys.argv[0]).resolve().parent
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Server(BaseHTTPRequestHandler):
    """Just enough of vLLM's server."""

    protocol_version = "HTTP/1.1"
    name = ""

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if behaviour() == "hang":
            time.sleep(600)
        self._send(json.dumps({"data": [{"id": self.name, "max_model_len": 64}]}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.headers["authorization"] != "Bearer " + os.environ["VLLM_API_KEY"]:
            self._send(b"{}", 401)
            return
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(10_000):
            event = b'data: {"choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % number
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            time.sleep(0.01)


def behaviour() -> str:
    path = HOME / "behaviour"
    return path.read_text().strip() if path.exists() else "ok"


def main() -> None:
    if sys.argv[1] == "-c":
        print(HOME / "vllm")
        return
    with (HOME / "lives").open("a") as lives:
        lives.write(json.dumps({"argv": sys.argv[2:], "environment": dict(os.environ)}) + "\n")
    if behaviour() == "die":
        print("INFO loading\nRuntimeError: no memory left\nINFO bye", flush=True)
        sys.exit(3)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    subprocess.Popen([sys.executable, "-c", STUBBORN])
    Server.name = sys.argv[sys.argv.index("--served-model-name") + 1]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Server).serve_forever()


if __name__ == "__main__":
    main()
