"""The same code, compiled: copies the packages into a folder and lets mypyc make C of the copy.

What runs there is generated from the very files that the interpreter reads, so it does the same things, event for
event (``tests/simulations/test_determinism.py``); it only does them in less time.  The source is never touched, so
that nobody edits a file which a compiled one hides.

Not compiled are modules that define ``msgspec`` structs (mypyc drops the keywords of a class, and a struct is C
already) and those that hardly do more than call numpy.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
#: The tree that is copied: whole, so that the command line finds its own packages there.
PACKAGES: Final = ("protocol", "simulations", "p2pnode", "bootstrap")
#: What is compiled: whatever runs for every event, statement or job.
MODULES: Final = (
    *(
        "protocol/gossip/publisher",
        "protocol/gossip/send_queue",
        "protocol/perf/batch_engine",
        "protocol/gossip/budget",
        "protocol/token_bucket",
        "protocol/jobs/cascade",
    ),
    *(
        "protocol/membership/columns",
        "protocol/dht/dht",
        "protocol/gossip/anti_entropy",
        "protocol/statements/versions",
        "protocol/gossip/gossip",
    ),
    *(
        "protocol/ids",
        "protocol/gossip/validation",
        "protocol/dht/routing_table",
        "protocol/perf/kv_cache",
        "protocol/membership/failure_detector",
    ),
    *(
        "protocol/dht/lookup",
        "protocol/membership/overlay",
        "protocol/subnet",
        "protocol/node",
        "protocol/perf/model_timing",
    ),
    *(
        "protocol/membership/peer_record",
        "protocol/membership/peer_view",
        "protocol/jobs/job_dedup",
        "protocol/perf/model_cache",
        "protocol/dht/record_store",
    ),
    *("protocol/statements/envelope", "protocol/perf/step_clock", "simulations/choosing", "simulations/dice"),
    *("simulations/entry", "simulations/jobs", "simulations/kernel", "simulations/network", "simulations/peer"),
    *("simulations/recorder", "simulations/sizes", "simulations/topology", "simulations/worker"),
)
#: Compiled classes from which attackers, which are not compiled, are derived: mypyc wants to be told.
OPEN: Final = {"simulations/peer.py": "class Peer:", "simulations/worker.py": "class Worker:"}
_TOLD: Final = "from mypy_extensions import mypyc_attr\n\n\n@mypyc_attr(allow_interpreted_subclasses=True)\n"
_SETUP: Final = """
from mypyc.build import mypycify
from setuptools import setup

flags = ["--config-file=", "--python-version", "{python}", "--ignore-missing-imports", *{files!r}]
setup(name="compiled", packages=[], ext_modules=mypycify(flags, opt_level="3", debug_level="0", multi_file=True))
"""


def compile_into(folder: Path) -> None:
    """Copy and compile; raises ``subprocess.CalledProcessError`` where mypyc or the C compiler refuses."""
    shutil.rmtree(folder, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    files = [f"{module}.py" for module in MODULES]
    for name, line in OPEN.items():
        source = (folder / name).read_text()
        assert source.count(f"\n{line}\n") == 1, f"{name} has no {line!r}"
        (folder / name).write_text(source.replace(f"\n{line}\n", f"\n{_TOLD}{line}\n"))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    setup = folder / "setup.py"
    setup.write_text(_SETUP.format(python=python, files=files))
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--parallel", "2"]
    subprocess.run(command, cwd=folder, check=True)
    shutil.rmtree(folder / "build", ignore_errors=True)
    setup.unlink()


if __name__ == "__main__":
    compile_into(Path(sys.argv[1]))
