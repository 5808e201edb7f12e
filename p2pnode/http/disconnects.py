"""Keeps quart-trio 0.12 from cancelling the server while it closes a connection.

While the server, inside the app's last ``send``, reports the end of the stream, quart-trio's reader gets
``http.disconnect`` and cancels the nursery that this very ``send`` runs in; hypercorn's own server then never closes a
connection of a client that asked for ``Connection: close``.  This ASGI wrapper holds the message back once the final
piece of the body is on its way; the app ends by itself then.
"""

from __future__ import annotations

import trio

from p2pnode.http.asgi import App, Message, Receive, Scope, Send


def hold_back(app: App) -> App:
    """``app`` with ``http.disconnect`` held back while its last message is being sent."""

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        ending = False

        async def watched_send(message: Message) -> None:
            nonlocal ending
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                ending = True
            await send(message)

        async def watched_receive() -> Message:
            message = await receive()
            if ending and message["type"] == "http.disconnect":
                await trio.sleep_forever()  # until the app's own nursery ends
            return message

        await app(scope, watched_receive, watched_send)

    return held
