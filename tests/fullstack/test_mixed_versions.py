"""A network of this version and of 0.1.0: gossip, look-ups and jobs in both directions, over links of either kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode.swarm import connection_table, libp2p
from p2pnode.swarm.libp2p import Libp2pNet
from protocol.wire.messages import ACCEPT, DIGEST, END, HELLO, RECORDS, REQ
from tests.fullstack.client import chat, streamed
from tests.fullstack.daemons import Daemons, Member, daemons, in_virtual_time
from tests.fullstack.version_0_1_0 import OldNet
from tests.fullstack.virtualnet import VirtualNet

pytestmark = pytest.mark.slow

#: A kind between nodes that neither version knows.
OF_THE_FUTURE = 31


@pytest.mark.parametrize("old_is_entry", [True, False])
@pytest.mark.parametrize("old_dials", [True, False])
def test_a_node_of_0_1_0_is_a_full_member(
    old_is_entry: bool, old_dials: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_number = 2 if old_dials else 1  # the second one dials the first

    def net_of(seed: bytes, listen: Any, **rest: Any) -> Libp2pNet:
        kind = OldNet if f"/10.0.{old_number}.1/" in listen[0] else Libp2pNet
        return kind(seed, listen, **rest)

    monkeypatch.setattr(libp2p, "Libp2pNet", net_of)
    monkeypatch.setattr(connection_table, "OFFERED", ("of-the-future", "fresh-load"))

    @in_virtual_time
    async def run() -> None:
        async with daemons(0, tmp_path, net=VirtualNet(0.02)) as all_of_them:
            entry_number = old_number if old_is_entry else 3 - old_number
            members = [await all_of_them.add(engine="none" if number == entry_number else "mock") for number in (1, 2)]
            await all_of_them.settle()
            entry, worker = members[entry_number - 1], members[2 - entry_number]
            old, new = (entry, worker) if old_is_entry else (worker, entry)
            await jobs_and_gossip(all_of_them, entry, worker)
            await unknown_kinds(old, new)
            net: Any = old.daemon.swarm._net
            assert {HELLO, RECORDS} <= set(net.sent) & set(net.heard)
            assert DIGEST in set(net.sent) | set(net.heard)
            worker_says = net.heard if old is entry else net.sent
            assert worker_says[ACCEPT] == worker_says[END] == 2
            assert (net.sent if old is entry else net.heard)[REQ] >= 2
            for member in members:
                assert member.daemon.swarm.faults == 0
                assert all(link.features == () for link in member.daemon.swarm._links)

    run()


async def jobs_and_gossip(all_of_them: Daemons, entry: Member, worker: Member) -> None:
    for _ in range(2):
        heard = await streamed(all_of_them.net, entry, chat(20))
        assert (heard.status, heard.pieces, heard.attempts) == (200, 20, 1)
    for one, other in ((entry, worker), (worker, entry)):
        record = one.daemon.swarm.view.get(other.peer)
        assert record is not None
        assert record.advert is not None
        assert record.load is not None


async def unknown_kinds(old: Member, new: Member) -> None:
    """Each end passes over what it does not know, and the link stays."""
    net: Any = old.daemon.swarm._net
    links = {one: one.daemon.swarm._links.get(other.peer) for one, other in ((old, new), (new, old))}
    for link in links.values():
        assert link is not None
        link.mux.send(0, OF_THE_FUTURE, b"\x90")
        link.kick()
    await trio.sleep(1)
    assert net.passed_over[OF_THE_FUTURE] == 1
    assert all(link is not None and not link.ended for link in links.values())
