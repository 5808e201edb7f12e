"""Addresses of seeds and of our own: well formed, grouped by peer, and named when they are wrong."""

from __future__ import annotations

import importlib.resources

import pytest

from p2pnode.lifecycle import WrongFlag
from p2pnode.seeds import check_listen, grouped, listed_seeds
from protocol.ids import PeerId, peer_text

PEER = PeerId(bytes(range(32)))


ADDRESS = f"/ip4/203.0.113.7/tcp/4411/p2p/{peer_text(PEER)}"


def test_the_seed_list_is_data_and_well_formed() -> None:
    assert importlib.resources.files("bootstrap").joinpath("seeds.toml").is_file()
    assert all(peer is not None for peer, _ in grouped(listed_seeds()))


def test_addresses_of_one_seed_belong_together() -> None:
    other = ADDRESS.replace("203.0.113.7", "198.51.100.1")
    unnamed = "/ip4/192.0.2.1/tcp/1"
    assert grouped((ADDRESS, unnamed, other)) == ((PEER, (ADDRESS, other)), (None, (unnamed,)))


@pytest.mark.parametrize("wrong", ["somewhere:4411", "/ip4/1.2.3.4/tcp/1/p2p/12D3KooWnonsense", "/ip4/1.2.3/tcp/1"])
def test_a_wrong_bootstrap_address_is_named(wrong: str) -> None:
    with pytest.raises(WrongFlag, match="bootstrap") as caught:
        grouped((wrong,))
    assert wrong in str(caught.value)


def test_a_wrong_place_to_listen_is_named_with_its_flag() -> None:
    check_listen(("/ip4/0.0.0.0/tcp/4411", "/ip6/::/tcp/0"))
    with pytest.raises(WrongFlag, match="--listen 'port 4411'"):
        check_listen(("port 4411",))
