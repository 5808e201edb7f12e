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
#: The compiled modules, by folder: those that run for every event, statement or job.
MODULES: Final = {
    "protocol/dht": "active_lookups dht links lookup own_records record_store routing_table server",
    "protocol/gossip": "anti_entropy budget gossip publisher send_queue validation",
    "protocol/jobs": "cascade fresh_load job_dedup warm_links",
    "protocol/membership": (
        "columns connections eviction failure_detector learned overlay peer_record peer_view penalties"
    ),
    "protocol": "ids node subnet token_bucket",
    "protocol/perf": "batch_engine kv_cache model_cache model_timing step_clock",
    "protocol/routing": "link_pool",
    "protocol/statements": "envelope versions",
    "simulations": "event_loop rng_streams",
    "simulations/sim": "baselines endpoint entry host job_log jobs message_sizes network node topology worker",
}
#: Compiled classes from which attackers, which are not compiled, are derived: mypyc wants to be told.
OPEN: Final = {
    "simulations/sim/endpoint.py": "class Endpoint:",
    "simulations/sim/host.py": "class Host(Endpoint):",
    "simulations/sim/node.py": "class SimNode(Host):",
    "simulations/sim/worker.py": "class Worker:",
}
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
    files = [f"{package}/{module}.py" for package, modules in MODULES.items() for module in modules.split()]
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
