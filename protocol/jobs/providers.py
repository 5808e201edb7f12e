"""The providers of models that the view does not know: what the DHT said of a name, and who of them led nowhere.

A provider statement lives for an hour, so it outlives its author.  A provider that could not be reached counts as
absent for ``MISSED_S``; if all of them are absent, so is the model, and neither a dial nor a look-up is repeated
meanwhile.
An answer of the DHT that comes after its job is over is kept for the next one.

Not here: the look-up (``dht``), peers of the view (``routing``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from protocol.effects import Found
from protocol.ids import PeerId
from protocol.statements.adverts import Advert, Provider
from protocol.statements.envelope import read

#: For how long an answer of the DHT holds, seconds: that there are providers (guess), and that there are none.
FOUND_S: Final = 60.0
UNKNOWN_S: Final = 30.0
#: For how long a provider that could not be reached counts as absent, seconds (guess: a restart, and its advert comes).
MISSED_S: Final = 300.0
#: Names remembered, and peers that could not be reached (guess).
MOST_NAMES: Final = 256
MOST_MISSED: Final = 1024

#: Providers with their addresses.
Provided = dict[PeerId, tuple[str, ...]]


class _Answer(msgspec.Struct, frozen=True):
    until: float
    providers: Provided


class Providers:
    """See the module's docstring.  ``me`` is this node, which is none of its own providers."""

    def __init__(self, me: PeerId) -> None:
        self._me = me
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._missed: OrderedDict[PeerId, float] = OrderedDict()

    def found(self, model: str, found: Found, now: float) -> None:
        """The DHT answered."""
        authors = dict.fromkeys(envelope.author for envelope in found.envelopes)
        authors.pop(self._me, None)
        providers = {author: addresses_in(found, author) for author in authors}
        self._note(model, providers, now + (FOUND_S if providers else UNKNOWN_S))

    def none_found(self, model: str, now: float) -> None:
        """The DHT has not answered in time."""
        self._note(model, {}, now + UNKNOWN_S)

    def known(self, model: str, now: float) -> Provided | None:
        """The providers that may be asked, perhaps none; None if the DHT has to be asked."""
        answer = self._answers.get(model)
        if answer is None or answer.until <= now:
            return None
        missed = self._missed
        return {peer: addrs for peer, addrs in answer.providers.items() if missed.get(peer, now) <= now}

    def missed(self, peer: PeerId, now: float) -> None:
        """The peer could not be reached."""
        self._missed[peer] = now + MISSED_S
        self._missed.move_to_end(peer)
        while len(self._missed) > MOST_MISSED:
            self._missed.popitem(last=False)

    def reached(self, peer: PeerId) -> None:
        """The peer said something."""
        self._missed.pop(peer, None)

    def _note(self, model: str, providers: Provided, until: float) -> None:
        self._answers[model] = _Answer(until, providers)
        self._answers.move_to_end(model)
        while len(self._answers) > MOST_NAMES:
            self._answers.popitem(last=False)


def addresses_in(found: Found, peer: PeerId) -> tuple[str, ...]:
    """The dial addresses of a peer: those of the contacts first, then those that it stated itself."""
    addrs = [addr for contact, known in found.contacts if contact == peer for addr in known]
    for envelope in found.envelopes:
        value = read(envelope) if envelope.author == peer else None
        if isinstance(value, Advert | Provider):
            addrs += value.addrs
    return tuple(dict.fromkeys(addrs))
