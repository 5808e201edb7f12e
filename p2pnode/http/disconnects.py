"""A workaround for quart-trio 0.12, which cancels the server while it closes a connection.

When the server reports the end of the stream, it still runs inside the app's last ``send``.  quart-trio's reader then
receives ``http.disconnect`` and cancels the nursery of that ``send``, so hypercorn's own server never closes the
connection of a client that asked for ``Connection: close``.  This ASGI wrapper delays the message once the last piece
of the body is being sent; the app then ends by itself.
"""

from __future__ import annotations

import trio

from p2pnode.http.asgi import App, Message, Receive, Scope, Send


def delay_disconnect(app: App) -> App:
    """``app``, which does not receive ``http.disconnect`` while it sends its last message."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
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

    return wrapped
