"""Attackers as real processes, which speak the project's protocol over libp2p, and what callers notice of them.

``python -m tests.attackers`` measures a kind of attacker; the tests pin what callers notice.  The attackers of the
simulator are in ``simulations/attackers``.
"""
