"""The simulator: drives the machines of ``protocol`` with a heap and a virtual clock.  Imports nothing of ``p2pnode``.

Empty in this version; the pure harness that the protocol's tests use (``tests/protocol/harness.py``) is its seed.
"""
