"""Limits that hold before anything of a request is understood: its body, and how often one asks."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.requests import ClientDisconnect

from service.problems import MEDIA_TYPE

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class BodyLimit:
    """Refuse bodies of more than so many bytes, with a Content-Length or without (ASGI)."""

    def __init__(self, app: App, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass the request on as long as its body is within the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length and (not length.isdigit() or int(length) > self._most):
            await self._refuse(send)
            return
        taken = 0
        answered = False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            # Whoever reads on is told that nobody sends any more; the answer is ours.
            return {"type": "http.disconnect"} if taken > self._most else message

        async def watched(message: Message) -> None:
            nonlocal answered
            if taken <= self._most or answered:
                answered = True
                await send(message)

        try:
            await self._app(scope, counted, watched)
        except ClientDisconnect:
            if taken <= self._most:
                raise
        if taken > self._most and not answered:
            await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        detail = f"A request may have {self._most} bytes at most"
        body = json.dumps(
            {"type": "about:blank", "title": "Content Too Large", "status": 413, "detail": detail}
        ).encode()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class RateLimit:
    """So many requests of each caller in a time, such as `120/minute`."""

    def __init__(self, rate: str) -> None:
        self._item: RateLimitItem = parse(rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def allows(self, caller: str) -> bool:
        """Count a request of a caller; return whether it is within the limit."""
        return self._limiter.hit(self._item, caller)

    @property
    def period_s(self) -> int:
        """Seconds after which all is allowed again."""
        return int(self._item.get_expiry())
