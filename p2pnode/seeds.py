"""The seed list, read as data from the package ``bootstrap``; no code of it is called."""

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
    """Raise ``WrongFlag`` for what cannot be listened at, naming the flag."""
    for address in addresses:
        try:
            parse_address(address)
        except BadAddress:
            example = "write /ip4/0.0.0.0/tcp/4411, with port 0 to have one picked"
            raise WrongFlag(f"--listen {address!r} is not an address: {example}") from None


def grouped(addresses: tuple[str, ...]) -> tuple[tuple[PeerId | None, tuple[str, ...]], ...]:
    """Addresses by the peer they name, as the neighbour machine takes them; None for those that name nobody.

    Raises ``WrongFlag`` for what is no address, with the address in the message.
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
