"""``python -m p2pnode`` is the same as ``p2pnode``."""

from p2pnode.cli.app import main

if __name__ == "__main__":
    main()
