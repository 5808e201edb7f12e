"""One peer's record: what follows from what it says and from what was seen of it."""

from __future__ import annotations

import math

import pytest

from protocol import PROTOCOL_VERSION
from protocol.membership.peer_record import PeerRecord
from protocol.statements.adverts import Advert, Load, Status
from tests.protocol.sample_peers import ME, advert, card, idle, new_view, put


def record(
    *, protocol: int = PROTOCOL_VERSION, load: Load | None = None, state: str = "alive", load_until: float = 20.0
) -> PeerRecord:
    """A peer whose advert is believed until second 30."""
    return PeerRecord(
        ME, 0, 0.0, advert=Advert(protocol), load=load, advert_until=30.0, load_until=load_until, state=state
    )


@pytest.mark.parametrize(
    ("peer", "until"),
    [
        (PeerRecord(ME, 0, 0.0), -math.inf),  # it has said nothing
        (record(), 30.0),  # nothing was said of its load
        (record(load=idle()), 20.0),
        (record(load=idle(), load_until=40.0), 30.0),
        (record(load=idle(status=int(Status.BUSY))), 20.0),
        (record(load=idle(status=int(Status.DRAINING))), -math.inf),
        (record(load=idle(status=int(Status.LEFT))), -math.inf),
        (record(load=idle(), state="suspect"), 20.0),
        (record(load=idle(), state="dead"), -math.inf),
        (record(load=idle(), state="left"), -math.inf),
        (record(protocol=PROTOCOL_VERSION + 1), -math.inf),
    ],
)
def test_a_peer_may_be_asked_as_long_as_its_advert_and_its_load_hold(peer: PeerRecord, until: float) -> None:
    assert peer.open_until == until


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        ({}, False),
        ({"is_self": True}, True),
        ({"linked": True}, True),
        ({"successes": 1}, True),
        ({"inflight": 1}, True),
        ({"state": "alive", "outbound": True, "rtt_s": 0.1}, False),
    ],
)
def test_links_jobs_and_successes_keep_a_peer(facts: dict[str, object], kept: bool) -> None:
    assert PeerRecord(ME, 0, 0.0, **facts).is_kept is kept  # type: ignore[arg-type]


def test_only_the_last_load_says_goodbye() -> None:
    assert not PeerRecord(ME, 0, 0.0).said_goodbye
    assert not record(load=idle(status=int(Status.DRAINING))).said_goodbye
    assert record(load=idle(status=int(Status.LEFT))).said_goodbye


def test_free_memory_is_never_more_than_there_is() -> None:
    assert PeerRecord(ME, 0, 0.0, load=idle(free_vram_mib=100)).free_mib == 0
    view = new_view()
    one = put(view, 1, advert(gpu=card(8)))
    found = view.get(one)
    assert found is not None
    assert found.free_mib == 8 * 1024  # all of it, while nothing was said
    for says, free in ((1 << 30, 8 * 1024), (1000, 1000), (0, 0)):
        put(view, 1, advert(gpu=card(8)), idle(free_vram_mib=says))
        assert view.columns["free"][found.row] == found.free_mib == free
