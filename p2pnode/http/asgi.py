"""The types of ASGI, as its specification describes them: mappings whose keys depend on their ``type``.

The types of hypercorn and Quart are unions of typed dictionaries; every access to a field would need a cast.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
