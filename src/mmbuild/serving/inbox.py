"""Events of requests on their way from the engine's thread to the event loop: one wakeup for all of a step."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """What has arrived for one request, for one reader in the event loop."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """Add an item; in the event loop."""
        self._items.append(item)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def take(self) -> list[T]:
        """Everything that has arrived; waits until there is something."""
        if not self._items:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        taken, self._items = self._items, []
        return taken


class Post:
    """Carries items from any thread to inboxes of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bag: deque[tuple[Inbox, object]] = deque()  # type: ignore[type-arg]

    def put(self, inbox: Inbox[T], item: T) -> None:
        """Add an item to be carried."""
        self._bag.append((inbox, item))

    def send(self) -> None:
        """Carry what has been added; wakes the event loop once."""
        if self._bag:
            with suppress(RuntimeError):  # the event loop is closed: the server is being stopped
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._bag:
            inbox, item = self._bag.popleft()
            inbox.put(item)
