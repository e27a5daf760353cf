"""A small OpenAI-compatible server on the loopback interface, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 20, "total_tokens": 24}
DONE = b"data: [DONE]\n\n"


@dataclass
class ChatServer:
    """The state of the server; tests change it while it runs.

    Attributes:
        reply: Kind of the reply by the number of the request, a key of :data:`REPLIES`.
        models: Names that ``/v1/models`` lists.
        facts: What it says of each besides.
        version: What ``/version`` says; None: 404.
        key: Key that every request must bring.
        pause: Seconds before each chunk.
        bodies: Bodies of the chat requests.
        most: Largest number of chat requests at once.
    """

    reply: Callable[[int], str] = lambda _: "ok"
    models: tuple[str, ...] = ("shapes",)
    facts: dict[str, Any] = field(default_factory=dict)
    version: str | None = None
    key: str | None = None
    pause: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most: int = 0
    url: str = ""
    _open: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode("latin-1").split("\r\n")
                headers = dict(text.lower().split(": ", 1) for text in lines if text)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._answer(writer, line.split()[1], headers, body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        if self.key is not None and headers.get("authorization") != f"bearer {self.key}":
            _send(writer, 401, {"error": {"message": "wrong key", "code": "invalid_api_key"}})
        elif path == "/v1/models":
            _send(
                writer, 200, {"object": "list", "data": [{"id": name, **self.facts} for name in self.models]}
            )
        elif path == "/version" and self.version is not None:
            _send(writer, 200, {"version": self.version})
        elif path == "/v1/chat/completions":
            self.bodies.append(json.loads(body))
            self._open += 1
            self.most = max(self.most, self._open)
            try:
                await REPLIES[self.reply(len(self.bodies) - 1)](self, writer, self.bodies[-1])
            finally:
                self._open -= 1
        else:
            _send(writer, 404, {"detail": "Not Found"})


def _send(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)


def event(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """A chunk of an answer as a server-sent event."""
    delta = {} if content is None else {"content": content}
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def usage(tokens: int) -> bytes:
    """The chunk with usage."""
    chunk = {"choices": [], "usage": {**USAGE, "completion_tokens": tokens}}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def _stream(
    server: ChatServer, writer: asyncio.StreamWriter, events: list[bytes], end: bool = True
) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for data in events:
        await asyncio.sleep(server.pause)
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await writer.drain()
    if end:
        writer.write(b"0\r\n\r\n")


def _words(body: dict[str, Any]) -> list[bytes]:
    return [event(""), *(event("a ") for _ in range(body["max_tokens"])), event(finish="length")]


async def _ok(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await _stream(server, writer, [*_words(body), usage(body["max_tokens"]), DONE])


async def _no_usage(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await _stream(server, writer, [*_words(body), DONE])


async def _cut(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await _stream(server, writer, _words(body)[:-1])


async def _broken(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await _stream(server, writer, _words(body)[:-1], end=False)
    writer.transport.abort()


async def _gone(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:  # noqa: ARG001
    writer.transport.abort()


async def _silent(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await _stream(server, writer, _words(body)[:2], end=False)
    await asyncio.sleep(60)


async def _open_end(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await _stream(server, writer, [*_words(body), usage(body["max_tokens"]), DONE], end=False)
    await asyncio.sleep(60)


async def _error_event(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    error = b'data: {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}\n\n'
    await _stream(server, writer, [*_words(body)[:3], error, DONE])


async def _garbage(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:  # noqa: ARG001
    await _stream(server, writer, [b"data: {not json\n\n", DONE])


async def _endless_event(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:  # noqa: ARG001
    await _stream(server, writer, [b"data: " + b"x" * 600_000, b"x" * 600_000])


async def _plain(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:  # noqa: ARG001
    _send(writer, 200, {"choices": [{"message": {"content": "a"}}]})


async def _busy(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:  # noqa: ARG001
    _send(writer, 429, {"error": {"message": "slow down", "type": "rate", "code": "rate_limit_exceeded"}})


async def _failing(server: ChatServer, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:  # noqa: ARG001
    _send(writer, 500, b"<html>Internal\nServer Error</html>")


REPLIES = {
    "ok": _ok,
    "no usage": _no_usage,
    "cut": _cut,
    "broken": _broken,
    "gone": _gone,
    "silent": _silent,
    "open end": _open_end,
    "error event": _error_event,
    "garbage": _garbage,
    "endless event": _endless_event,
    "plain": _plain,
    "429": _busy,
    "500": _failing,
}
"""Kind of a reply -> what sends it."""


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A running server."""
    state, loop, started = ChatServer(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(state.handle, "127.0.0.1", 0)
        state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def run() -> None:
        loop.run_until_complete(serve())
        loop.call_soon(started.set)  # in the run that `stop` is meant for
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(240)
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
