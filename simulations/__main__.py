"""``python -m simulations``: the same as ``p2pnode sim``."""

import sys

from simulations.cli import main

if __name__ == "__main__":
    sys.exit(main())
