"""``python -m tests.attackers.paper``: one process that says over one link that many nodes are there.

It takes the flags of ``p2pnode run``, and ``--identities N``, ``--port P``, ``--offers MODEL``, ``--claims NAME``.
Each identity signs an advert with these claims (``nodes.CLAIMS``) and the address of port P here, and then a load every
few seconds, which says that it lives.  All of them go to the node of ``--bootstrap``; the process makes no other links.
Whether something listens on port P is decided elsewhere (``ports``).
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from p2pnode import node
from p2pnode.cli import app
from p2pnode.cli.options import Shared, shared
from p2pnode.cli.verbs import run
from p2pnode.config import Config
from p2pnode.state.paths import Paths
from protocol import PROTOCOL_VERSION
from protocol.effects import Dial, Effect, Send, SetTimer
from protocol.events import Event, LinkUp, TimerFired
from protocol.ids import PeerId, model_id
from protocol.node import Node
from protocol.perf.gpu_catalog import find_gpu
from protocol.statements.adverts import Advert, Load, ModelOffer
from protocol.statements.envelope import Envelope, statement
from protocol.statements.keys import Ed25519Signer
from protocol.wire.messages import Records
from tests.attackers.nodes import CLAIMS

PROGRAM: Final = ("-m", "tests.attackers.paper")
#: Seconds between messages, and statements in one: as fast as a node checks the signatures of one link.
EVERY_S: Final = 0.25
AT_ONCE: Final = 50
#: Seconds that a statement holds: the longest life of an advert, and loads that outlive one round of 4,000.
ADVERT_S: Final = 120
LOAD_S: Final = 60
_TIMER: Final = ("paper",)


class Identities:
    """Keys on paper and their statements, for ever in turn: all adverts, then loads, and adverts again in time."""

    def __init__(self, count: int, port: int, model: str, claims: str) -> None:
        self._signers = [Ed25519Signer(hashlib.sha256(f"paper {port} {n}".encode()).digest()) for n in range(count)]
        self.peers = frozenset(signer.peer_id for signer in self._signers)
        fingerprint = model_id(model, "", "", "", 8192)
        offer = ModelOffer(model, fingerprint, context=8192, quantization="bf16", vram_mib=16384, params_b=8.0)
        gpu = find_gpu("RTX 4090")
        assert gpu is not None
        advert = Advert(
            PROTOCOL_VERSION, name="paper", runtime="simulated", gpus=(gpu,), models=(offer,),
            addrs=(f"/ip4/127.0.0.1/tcp/{port}",), engine="mock",
        )  # fmt: skip
        self._advert = CLAIMS[claims].of(advert)
        self._load = CLAIMS[claims].at(Load(slots=16))
        self._advertised = -ADVERT_S
        self._turn = self._loads()
        self._seq = 0

    def next(self, now: float, wall: float) -> tuple[Envelope, ...]:
        """The next statements."""
        if now > self._advertised + ADVERT_S / 2:
            self._advertised = now
            self._turn = self._adverts()
        signed = []
        for _ in range(AT_ONCE):
            each = next(self._turn, None)
            if each is None:
                self._turn = self._loads()
                break
            signer, value = each
            self._seq += 1
            life = ADVERT_S if isinstance(value, Advert) else LOAD_S
            signed.append(statement(signer, value, (int(wall), self._seq), wall, life))
        return tuple(signed)

    def _adverts(self) -> Iterator[tuple[Ed25519Signer, Advert | Load]]:
        return ((signer, value) for signer in self._signers for value in (self._advert, self._load))

    def _loads(self) -> Iterator[tuple[Ed25519Signer, Advert | Load]]:
        return ((signer, self._load) for signer in self._signers)


class Injector(Node):
    """A node that passes statements to the first peer that it reaches, and dials no one else."""

    def __init__(self, identities: Identities, *rest: Any) -> None:
        super().__init__(*rest)
        self._identities = identities
        self._target: PeerId | None = None

    def handle(self, event: Event, now: float, wall: float) -> list[Effect]:
        if isinstance(event, TimerFired) and event.key == _TIMER:
            assert self._target is not None
            records = Records(self._identities.next(now, wall))
            send = [Send(self._target, records)] if records.envelopes else []
            return [*send, SetTimer(_TIMER, now + EVERY_S)]
        effects = super().handle(event, now, wall)
        if isinstance(event, LinkUp) and event.outbound and self._target is None:
            self._target = event.peer
            effects.append(SetTimer(_TIMER, now + EVERY_S))
        return [effect for effect in effects if self._target is None or not isinstance(effect, Dial)]


async def inject(identities: Identities, config: Config, paths: Paths) -> None:
    """Run a node whose machine is an ``Injector``."""
    node.Node = functools.partial(Injector, identities)  # type: ignore[assignment,misc]
    await node.run_node(config, paths)


@click.command(name="run")
@click.option("--identities", type=int, default=400)
@click.option("--port", type=int, required=True)
@click.option("--offers", required=True)
@click.option("--claims", default="boundless")
@shared
def command(options: Shared, identities: int, port: int, offers: str, claims: str, **flags: Any) -> int:
    return run.launch(options, flags, functools.partial(inject, Identities(identities, port, offers, claims)))


_OWN: Final = {"identities", "port", "offers", "claims"}
command.params = [*run.command.params, *(each for each in command.params if each.name in _OWN)]

if __name__ == "__main__":
    sys.exit(app.run(command=command, name="python -m tests.attackers.paper"))
