"""Reads and checks addresses: the seed list of the package ``bootstrap``, as data, and those of flags."""

from __future__ import annotations

import importlib.resources
import tomllib

from p2pnode.lifecycle import WrongFlag
from p2pnode.swarm.net import BadAddress, parse_address
from protocol.ids import PeerId


def listed_seeds() -> tuple[str, ...]:
    """Every address in ``bootstrap/seeds.toml``; empty if the file is not there."""
    try:
        text = importlib.resources.files("bootstrap").joinpath("seeds.toml").read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        return ()
    return tuple(address for seed in tomllib.loads(text).get("seed", ()) for address in seed.get("addrs", ()))


def check_listen(addresses: tuple[str, ...]) -> None:
    """Raise ``WrongFlag``, which names the flag, for an invalid listening address."""
    for address in addresses:
        try:
            parse_address(address)
        except BadAddress:
            example = "write /ip4/0.0.0.0/tcp/4411; port 0 picks a free one"
            raise WrongFlag(f"--listen {address!r} is not an address: {example}") from None


def grouped(addresses: tuple[str, ...]) -> tuple[tuple[PeerId | None, tuple[str, ...]], ...]:
    """Group addresses by their peer id, in the form that ``protocol.membership.overlay`` takes; None if there is none.

    Raises ``WrongFlag``, which names the address, for an invalid one.
    """
    by_peer: dict[PeerId, list[str]] = {}
    unnamed: list[tuple[PeerId | None, tuple[str, ...]]] = []
    for address in addresses:
        try:
            peer = parse_address(address).peer
        except BadAddress:
            example = "copy it whole from the line that the other node printed, /ip4/…/tcp/…/p2p/12D3KooW…"
            raise WrongFlag(f"--bootstrap {address!r} is not an address: {example}") from None
        if peer is None:
            unnamed.append((None, (address,)))
        else:
            by_peer.setdefault(peer, []).append(address)
    return (*((peer, tuple(addrs)) for peer, addrs in by_peer.items()), *unnamed)
