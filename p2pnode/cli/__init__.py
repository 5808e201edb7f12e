"""The command line: ``app`` has ``main``, each verb has a file of its own name.

Data goes to stdout and talk to stderr; every verb that reads takes ``--json`` and then prints exactly what the HTTP
endpoint returned.  The verbs talk to the daemon through its local API (``client``), never through its files; only
``run``, ``demo``, ``doctor`` and ``keys`` work without a daemon.
"""
