"""Peers for tests: statements of invented authors, put into a view without signing anything."""

from __future__ import annotations

from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer
from protocol.statements.envelope import Envelope
from protocol.statements.keys import ADVERT, LOAD

ME = PeerId(bytes(32))
MODEL = "llama-3.1-8b-instruct"


def peer(number: int) -> PeerId:
    """The peer of that number, from 1."""
    return PeerId(number.to_bytes(4, "big") * 8)


def envelope(author: PeerId, kind: int) -> Envelope:
    """An envelope that nobody signed."""
    return Envelope(kind, author, 1, 1, 0.0, 120, b"", b"")


def card(vram_gib: float = 24, tflops: float = 100.0, bandwidth: float = 1000.0, name: str = "card") -> Gpu:
    """A GPU."""
    return Gpu(name, vram_mib=round(vram_gib * 1024), bf16_tflops=tflops, bandwidth_gb_s=bandwidth)


def offer(name: str = MODEL, **changes: object) -> ModelOffer:
    """An offer of a model that needs 16 GiB, resident unless told otherwise."""
    facts: dict[str, object] = {"context": 8192, "vram_mib": 16 * 1024}
    return ModelOffer(name, bytes(16), **(facts | changes))  # type: ignore[arg-type]


def advert(*offers: ModelOffer, gpu: Gpu | None = None, **changes: object) -> Advert:
    """An advert, with one GPU of 24 GiB and the usual offer unless told otherwise."""
    facts: dict[str, object] = {"gpus": (card() if gpu is None else gpu,), "models": offers or (offer(),)}
    return Advert(1, **(facts | changes))  # type: ignore[arg-type]


def at(address: str) -> Advert:
    """An advert of a peer that listens at this address."""
    return advert(addrs=(f"/ip4/{address}/tcp/4411",))


def idle(**changes: object) -> Load:
    """A load of 8 places, all free."""
    facts: dict[str, object] = {"free_vram_mib": 24 * 1024, "slots": 8}
    return Load(**(facts | changes))  # type: ignore[arg-type]


def new_view(size: int = 4096, per_group: int = 64) -> PeerView:
    """A view of ours that knows nobody."""
    return PeerView(ME, size, per_group)


def put(
    view: PeerView,
    number: int,
    said: Advert | None = None,
    load: Load | None = None,
    *,
    now: float = 0.0,
    until: float = 1e6,
) -> PeerId:
    """Put what a peer says into a view, which has to have room; returns the peer."""
    author = peer(number)
    assert view.put(envelope(author, ADVERT), advert() if said is None else said, now, until)
    if load is not None:
        assert view.put(envelope(author, LOAD), load, now, until)
    return author
