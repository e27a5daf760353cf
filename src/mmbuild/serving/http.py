"""The HTTP server: it ends by itself after SIGTERM, and its connections must send a request in time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 15.0


class HttpServer(uvicorn.Server):
    """uvicorn's server. After SIGTERM or SIGINT it answers what it has begun and returns; uvicorn would raise the
    signal again, which ends the process before the engine has stopped. A second signal ends it at once.

    Args:
        config: uvicorn's settings.
        terminated: What SIGTERM does instead.
        stopping: Called at the first signal.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        terminated: Callable[[], None] | None = None,
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._handlers = {signal.SIGTERM: terminated or self._stop, signal.SIGINT: self._stop}

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs."""
        loop = asyncio.get_running_loop()
        for number, handler in self._handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in self._handlers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        if not self.should_exit:
            self._stopping()
        self.should_exit = True


class TimedProtocol(H11Protocol):
    """uvicorn's protocol, which waits for the head of every request only so long.

    Between requests uvicorn waits for the first byte only. What remains of the body of a request that was answered
    early counts as the beginning of the next one. Bodies have their own limit.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        super().data_received(data)
        if self._is_answering():
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self._is_answering() and self.transport is not None:
            self.transport.close()
