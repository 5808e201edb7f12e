"""The command line: ``app`` has ``main``, and ``verbs`` has one module per verb.

Data goes to stdout, messages go to stderr.  Every verb that reads takes ``--json`` and then prints the answer of the
HTTP endpoint unchanged.  The verbs use the daemon's local API (``client``), never its files; only ``run``, ``demo``,
``doctor`` and ``keys`` work without a daemon.
"""
