"""Server-sent events to a client that may stop reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class EventStream(Response):
    """A stream of events. A client that does not take the next ones in time is given up."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Sequence[str]],
        write_seconds: float,
        ended: Callable[[str | None], None],
    ) -> None:
        """``events``: those together that are sent together. ``ended`` is called once, with what went wrong on the
        client's side, or None."""
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self._events, self._seconds, self._ended = events, write_seconds, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the events."""
        problem: str | None = "client left"
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with asyncio.timeout(None) as limit:
                await self._send_events(send, _Sending(limit, self._seconds))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            problem = None
        except TimeoutError:
            # The server closes connections whose response is not complete.
            problem = "client does not read"
        except (ClientDisconnect, OSError):
            pass
        finally:
            self._ended(problem)

    async def _send_events(self, send: Send, sending: _Sending) -> None:
        try:
            async with aclosing(self._events) as batches:  # type: ignore[type-var]
                async for events in batches:
                    body = "".join([f"data: {event}\n\n" for event in events]).encode()
                    sending.since = sending.loop.time()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    sending.since = None
        finally:
            sending.stop()


class _Sending:
    """Ends a timeout when something has not been sent in time.

    It looks now and then, so it may take one and a half times the limit: a timer for each event would cost more than
    the event.
    """

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.since: float | None = None
        self._limit, self._seconds = limit, seconds
        self._timer = self.loop.call_later(seconds / 2, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        if self.since is not None and now - self.since >= self._seconds:
            self._limit.reschedule(now)
        else:
            self._timer = self.loop.call_later(self._seconds / 2, self._look)

    def stop(self) -> None:
        """No longer look."""
        self._timer.cancel()
