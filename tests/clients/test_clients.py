"""Real clients of the OpenAI API against a network of three nodes, each client in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli.processes import Fleet, NodeProcess, until

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ENVIRONMENTS = ROOT / ".venv-clients"
#: The clients that are tried, pinned: their behaviour on errors and retries differs between versions.
PYTHON_OPENAI = "openai==3.52.0"
NODE_OPENAI = "openai@7.55.0"
MODEL = "llama-3.1-8b-instruct"
FAULTY = "breaks-midway"

pytestmark = pytest.mark.slow


def offered(node: NodeProcess) -> set[str]:
    return {entry["id"] for entry in node.api.get("/v1/models")["data"]}


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """The gateway of a network of three: it has no engine, one worker is sound, one breaks after a few chunks."""
    with Fleet(tmp_path_factory.mktemp("clients")) as fleet:
        gateway = fleet.node("gateway", "--engine", "none").wait_ready()
        joined = ("--bootstrap", gateway.address, "--engine", "mock", "--model")
        fleet.node("worker", *joined, MODEL).wait_ready()
        fleet.node("faulty", *joined, FAULTY, env={"P2PNODE_MOCK_FAULTS": '{"crash_after": 5}'}).wait_ready()
        until(lambda: offered(gateway) >= {MODEL, FAULTY}, f"both models are known\n{gateway.tail()}", 30)
        yield gateway


@pytest.fixture(scope="module")
def python_client() -> Path:
    """The interpreter of an environment with nothing but the Python client."""
    folder = ENVIRONMENTS / PYTHON_OPENAI.replace("==", "-")
    interpreter = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", PYTHON_OPENAI], check=True)
        (folder / "installed").touch()
    return interpreter


@pytest.fixture(scope="module")
def node_folder() -> Path:
    """A folder in which Node finds its client."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        if os.environ.get("P2PNODE_REQUIRE_NODE") == "1":
            pytest.fail("Node.js and npm are required here and missing")
        pytest.skip("Node.js is missing: the Node client is NOT tried (install nodejs and npm)")
    folder = ENVIRONMENTS / NODE_OPENAI.replace("@", "-")
    if not (folder / "node_modules" / "openai").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", NODE_OPENAI]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def run(command: list[str], entry: NodeProcess, cwd: Path | None = None) -> dict[str, Any]:
    key = Path(entry.ready["key_file"]).read_text().strip()
    command = [*command, entry.ready["api"], key, MODEL, FAULTY]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr + entry.tail()
    return dict(json.loads(result.stdout))


def test_the_python_client_is_at_home(entry: NodeProcess, python_client: Path) -> None:
    out = run([str(python_client), str(HERE / "openai_python.py")], entry)

    assert set(out["models"]) == {MODEL, FAULTY}
    assert out["retrieve"] == MODEL
    assert out["request_id"]
    assert out["peer"]
    assert out["chat"]
    assert 0 < out["usage"] <= 24
    assert out["stream"]["text"] == out["chat"]
    assert out["stream"]["finish"] == out["finish"]
    assert out["stream"]["usage"] == out["usage"]
    assert out["stream"]["chunks"] > 3
    assert out["tool"] == "weather"
    assert isinstance(out["tool_arguments"], dict)
    assert out["completion"]
    assert len(out["embeddings"]) == 2
    assert out["embeddings"][0] > 1
    assert out["same_embedding"]
    assert out["unknown"]["code"] == "model_not_found"
    assert "no-such-model" in out["unknown"]["message"]
    assert out["unauthorised"] == "invalid_api_key"
    assert out["bad_request"] == "invalid_request_error"
    assert out["midstream"] == "peer_failed"
    assert out["partial"] > 0


def test_the_node_client_is_at_home(entry: NodeProcess, node_folder: Path) -> None:
    script = shutil.copy(HERE / "openai_node.mjs", node_folder)
    out = run(["node", str(script)], entry, cwd=node_folder)

    assert set(out["models"]) == {MODEL, FAULTY}
    assert out["request_id"]
    assert out["stream"]["text"] == out["chat"]
    assert out["stream"]["usage"] == out["usage"]
    assert out["tool"] == "weather"
    assert len(out["embeddings"]) == 2
    assert out["embeddings"][0] > 1
    assert out["unknown"] == {"status": 404, "code": "model_not_found"}
    assert out["unauthorised"] == {"status": 401, "code": "invalid_api_key"}
    assert out["midstream"] == "peer_failed"
