"""Network groups: the part of an address that one party controls."""

from __future__ import annotations

import pytest

from protocol.subnet import group_of, network_group


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("8.8.4.4", "8.8.4.0/24"),
        ("127.3.2.1", "127.0.0.0/8"),
        ("::1", "::1/128"),
        ("2001:db8:1:2::7", "2001:db8:1::/48"),
        ("::ffff:8.8.4.4", "8.8.4.0/24"),
        ("fe80::1%eth0", "fe80::/48"),
        ("example.org", ""),
        ("", ""),
    ],
)
def test_a_network_group_is_what_one_party_controls(address: str, group: str) -> None:
    assert network_group(address) == group


def test_the_group_of_an_advert_is_that_of_its_first_public_address() -> None:
    assert group_of(("/ip4/192.168.1.2/tcp/1", "/dns4/a.example/tcp/1", "/ip4/8.8.8.8/tcp/1")) == "8.8.8.0/24"
    assert group_of(("/ip4/192.168.1.2/tcp/1",)) == "192.168.1.0/24"
    assert group_of(("nonsense", "/ip4/999.1.1.1/tcp/1")) == ""
    assert group_of(()) == ""
