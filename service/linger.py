"""Let an early refusal be read by a sender that is still sending."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_SECONDS = 2.0


class Linger:
    """ASGI middleware for answers that are given before the body was read.

    Closing a socket that still receives makes the kernel reset it, and the sender may never see
    the 413 that explains why. So the answer is sent whole, then the body is thrown away as it
    comes for ``LINGER_SECONDS``, then the connection closes (RFC 9112 section 9.6).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, holding the connection open where it answered early."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        names = {name for name, _ in scope["headers"]}
        unread = b"content-length" in names or b"transfer-encoding" in names

        async def watched() -> Message:
            nonlocal unread
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                unread = False
            return message

        async def lingering(message: Message) -> None:
            if message["type"] == "http.response.start" and unread:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and unread:
                await send({**message, "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_SECONDS):
                        while unread:
                            await watched()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, watched, lingering)
