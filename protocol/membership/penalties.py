"""When penalties add up to a ban, and which peers and addresses are banned.

Not here: the reasons for a penalty (the machines that emit ``Penalise``, and the codec), the refusal of a banned peer
(``connections``), and the links that a ban closes, which belong to the driver.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.ids import PeerId
from protocol.settings import PenaltySettings

#: Peers whose penalties are remembered, and bans; beyond that the oldest are forgotten (guess: a full view, and of bans
#: a peer and an address for each).
REMEMBERED: Final = 4096
REMEMBERED_BANS: Final = 2 * REMEMBERED


class Penalties:
    """The penalty points of each peer within the window of ``ban_s`` seconds."""

    __slots__ = ("_points", "settings")

    def __init__(self, settings: PenaltySettings) -> None:
        self.settings = settings
        self._points: dict[PeerId, deque[tuple[float, int]]] = {}

    def __len__(self) -> int:
        return len(self._points)

    def penalise(self, peer: PeerId, points: int, now: float) -> bool:
        """Count ``points`` against ``peer``; True: that bans it, and its count starts anew."""
        if points <= 0:
            return False
        most = self.settings.ban_points
        # An entry is worth a point at least, so the newest ``ban_points`` entries decide.
        history = self._points.pop(peer, None) or deque(maxlen=most)
        history.append((now, points))
        if sum(weight for at, weight in history if now - at < self.settings.ban_s) >= most:
            return True
        self._points[peer] = history
        if len(self._points) > REMEMBERED:
            del self._points[next(iter(self._points))]
        return False


class Bans:
    """The peers and IP addresses that are refused, and until when."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[PeerId | str, float] = {}

    def add(self, banned: PeerId | str, until: float) -> None:
        """Ban a peer or an address; a later ban of the same replaces an earlier one."""
        self._until.pop(banned, None)
        self._until[banned] = until
        if len(self._until) > REMEMBERED_BANS:
            del self._until[next(iter(self._until))]

    def holds(self, banned: PeerId | str, now: float) -> bool:
        """Whether this peer or address is banned now."""
        return self._until.get(banned, now) > now

    def active(self, now: float) -> list[PeerId | str]:
        """All that is banned now, in the order of the bans."""
        return [banned for banned, until in self._until.items() if until > now]
