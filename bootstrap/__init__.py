"""The way into the network: ``seeds.toml``, the list of well-known nodes, and a node that does nothing but introduce.

``p2pnode`` reads the list as data; the node is ``python -m bootstrap``.
"""
