"""Bootstrapping: ``seeds.toml``, the list of well-known nodes, and a node that only introduces others.

``p2pnode`` reads the list as data; ``python -m bootstrap`` runs the node.
"""
