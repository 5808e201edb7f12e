"""The simulator: drives the machines of ``protocol`` with a heap and a virtual clock, without ``p2pnode``."""
