"""What a request may cost: bytes, seconds, and how many are worked on at once.

Bodies are counted while they come in, before anything reads them, so that neither a
large body, nor many of them, nor one that never ends takes more than was allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The rest of a refused body would be read as the next request.
_CLOSE = {"Connection": "close"}
_LATER = {"Retry-After": "1"}
# Bodies of so many times the limit are read to their end and thrown away.
_DISCARDED = 4


class Slots:
    """Requests that are worked on; more than so many are told to come again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Holds a slot.

        Raises:
            HTTPException: 503, if none is free.
        """
        if self.taken >= self._most:
            raise HTTPException(
                503, f"{self._most} requests are being answered: try again", _LATER
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class BodyLimits:
    """ASGI middleware that bounds bodies."""

    def __init__(
        self, app: ASGIApp, *, body_bytes: int, all_bytes: int, seconds: float
    ) -> None:
        """Wraps an application.

        Args:
            app: what answers.
            body_bytes: of one request's body; a larger one is 413.
            all_bytes: of all bodies that are in the process; beyond it, 503.
            seconds: in which a body has to be there, or it is 408.
        """
        self._app = app
        self._body_bytes = body_bytes
        self._all_bytes = all_bytes
        self._seconds = seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._body_bytes:
            # Who asks whether to send gets the prediction instead.
            if b"expect" not in headers:
                await self._discard(receive, deadline)
            refused = self._too_large()
            response = JSONResponse({"error": refused.detail}, 413, refused.headers)
            await response(scope, receive, send)
            return
        taken, is_whole = 0, False

        async def bounded() -> Message:
            nonlocal taken, is_whole
            if is_whole:
                # What comes now is the end of the connection, whenever it ends.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - loop.time())
            except TimeoutError:
                raise HTTPException(
                    408, f"the body was not there after {self._seconds:g} s", _CLOSE
                ) from None
            if message["type"] == "http.request":
                is_whole = not message.get("more_body", False)
                length = len(message.get("body", b""))
                taken += length
                self._held += length
                if taken > self._body_bytes:
                    if not is_whole:
                        await self._discard(receive, deadline)
                    raise self._too_large()
                if self._held > self._all_bytes:
                    raise HTTPException(
                        503, "too many bytes are being received: try again",
                        _CLOSE | _LATER,
                    )  # fmt: skip
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            self._held -= taken

    async def _discard(self, receive: Receive, deadline: float) -> None:
        """Lets a client end what it is sending, within bounds.

        While it sends it reads no answer, and closing under it would take the answer
        away with the connection.
        """
        loop = asyncio.get_running_loop()
        left = _DISCARDED * self._body_bytes
        with contextlib.suppress(TimeoutError):
            while left > 0:
                message = await asyncio.wait_for(receive(), deadline - loop.time())
                if not message.get("more_body", False):
                    return
                left -= len(message["body"])

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413,
            f"expected a body of at most {self._body_bytes:,} bytes: send fewer or "
            "smaller pictures",
            _CLOSE,
        )
