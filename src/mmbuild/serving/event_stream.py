"""Server-sent events to a client that may stop reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class EventStream(Response):
    """A stream of events. A client that does not take the next one in time is given up."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[str], write_seconds: float, ended: Callable[[str | None], None]
    ) -> None:
        """``ended`` is called once, with what went wrong on the client's side, or None."""
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self._events, self._seconds, self._ended = events, write_seconds, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the events."""
        problem: str | None = "client left"
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._events) as events:  # type: ignore[type-var]
                async for event in events:
                    body = f"data: {event}\n\n".encode()
                    async with asyncio.timeout(self._seconds):
                        await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            problem = None
        except TimeoutError:
            # The server closes connections whose response is not complete.
            problem = "client does not read"
        except (ClientDisconnect, OSError):
            pass
        finally:
            self._ended(problem)
