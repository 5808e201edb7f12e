"""The simulator: drives the machines of ``protocol`` with a heap and a virtual clock.  Imports nothing of ``p2pnode``."""
