"""The HTTP endpoints."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mmbuild.base.errors import MmbuildError
from mmbuild.base.limits import SERVED_REQUEST
from mmbuild.models.errors import EngineError
from mmbuild.serving.answers import Form
from mmbuild.serving.errors import ProtocolError, body_of, retry_after, status_of
from mmbuild.serving.event_stream import EventStream
from mmbuild.serving.jobs import Done, Event, Failed, Piece, TokenLogprob
from mmbuild.serving.metrics import CONTENT_TYPE, Metrics
from mmbuild.serving.protocol import Chat, Completion, Generation, parse
from mmbuild.serving.service import Service

_GONE = 499  # nginx's status for clients that have left


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take.

    Attributes:
        body_bytes: Size of a request.
        body_seconds: Time to send it.
        answer_seconds: Time for an answer, from the whole request to its end.
        write_seconds: Time to take the next piece of a stream.
    """

    body_bytes: int = SERVED_REQUEST.size
    body_seconds: float = 30.0
    answer_seconds: float = 600.0
    write_seconds: float = 30.0


@dataclass
class Server:
    """What the endpoints share.

    Attributes:
        api_key: The key that clients must know; None: any.
        limits: What a client may take.
        log: Gets one line for each request.
        service: The engine, once it is loaded.
    """

    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    log: Callable[[str], None] = lambda _: None
    service: Service | None = None
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.service.loop.counts() if self.service else (0, 0))

    def ready(self) -> Service:
        """The engine.

        Raises:
            EngineError: MM871, it is not loaded yet; MM872, it has stopped.
        """
        if self.service is None:
            raise EngineError("the engine is being loaded", code="MM871", hint="try again in a moment")
        if not self.service.loop.is_alive:
            raise EngineError("the engine has stopped", code="MM872", hint="restart the server")
        return self.service

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/health", self._health),
            Route("/ready", self._guarded(self._ready)),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._guarded(self._models)),
            Route("/v1/chat/completions", self._guarded(self._answering(Chat)), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._answering(Completion)), methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        return JSONResponse({"status": "ready", "model": self.ready().model})

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def _models(self, _: Request) -> Response:
        service = self.ready()
        model = {"id": service.model, "object": "model", "created": 0, "owned_by": "mmbuild"}
        length = service.engine.config.max_input_len + service.engine.config.max_output_len
        return JSONResponse({"object": "list", "data": [{**model, "max_model_len": length}]})

    def _guarded(
        self, work: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Check the key, and answer errors in the protocol's form."""

        async def guarded(request: Request) -> Response:
            try:
                if request.url.path.startswith("/v1/"):
                    self._check_key(request)
                return await work(request)
            except MmbuildError as error:
                return self._failure(error)

        return guarded

    def _failure(self, error: MmbuildError) -> Response:
        status = status_of(error)
        headers = {}
        if status in (429, 503):
            wait = self.service.loop.expected_wait() if self.service else 5.0
            headers["Retry-After"] = retry_after(wait)
        return JSONResponse(body_of(error), status, headers)

    def _check_key(self, request: Request) -> None:
        if self.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), self.api_key.encode()):
            raise ProtocolError(
                "the request has no valid key",
                code="MM878",
                hint="send `Authorization: Bearer KEY`",
                status=401,
            )

    def _answering(self, kind: type[Generation]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            exchange = Exchange(self, request, kind)
            try:
                response = await exchange.answer()
            except MmbuildError as error:
                exchange.close(status_of(error), error.code)
                raise
            except ClientDisconnect:
                exchange.close(_GONE, "client left")
                return Response(status_code=_GONE)
            except BaseException:
                exchange.close(500, "failed")
                raise
            return response

        return answer


class Exchange:
    """One request for an answer, from its body to the last byte."""

    def __init__(self, server: Server, request: Request, kind: type[Generation]) -> None:
        self._server, self._request, self._kind = server, request, kind
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._keys: list[int] = []
        self._began = time.monotonic()
        self._first: float | None = None
        self._prompt = self._tokens = 0
        self._queued = 0.0
        self._closed = False

    async def answer(self) -> Response:
        """The response; of a stream, its beginning.

        Raises:
            MmbuildError: The request cannot be answered.
        """
        service, limits = self._server.ready(), self._server.limits
        body = parse(await self._body(), self._kind)
        service.check_model(body)
        self._began = time.monotonic()
        encoded = await run_in_threadpool(service.encode, body)
        self._prompt = len(encoded.ids)
        self._submit(service, body, encoded)
        form = Form(self._kind is Chat, service.model, lambda token: service.engine.decoded([token]))
        left = asyncio.create_task(self._wait_for_departure())
        try:
            first = await self._next(left)
            if body.stream:
                chunks = self._chunks(body, form, first, left)
                return EventStream(
                    chunks, limits.write_seconds, lambda reason: self._end_of_stream(reason, left)
                )
            try:
                return await self._whole(body, form, first, left)
            finally:
                left.cancel()
        except BaseException:
            left.cancel()
            raise

    async def _body(self) -> bytes:
        limits = self._server.limits
        stated = self._request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > limits.body_bytes:
            raise self._too_large()
        content = bytearray()
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for part in self._request.stream():
                    content += part
                    if len(content) > limits.body_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise ProtocolError(
                f"the request took longer than {limits.body_seconds:g} s to arrive", code="MM876", status=408
            ) from None
        return bytes(content)

    def _too_large(self) -> ProtocolError:
        most = self._server.limits.body_bytes
        return ProtocolError(f"the request is larger than {most:,} bytes", code="MM876", status=413)

    def _submit(self, service: Service, body: Any, encoded: Any) -> None:
        loop = asyncio.get_running_loop()

        def reporter(choice: int) -> Callable[[Event], None]:
            def report(event: Event) -> None:
                with suppress(RuntimeError):  # the server is being stopped
                    loop.call_soon_threadsafe(self._events.put_nowait, (choice, event))

            return report

        try:
            for choice in range(body.n or 1):
                job = service.job(body, encoded, choice, reporter(choice))
                self._keys.append(service.loop.submit(job))
        except MmbuildError:
            self._cancel()
            raise

    def _cancel(self) -> None:
        service = self._server.service
        for key in self._keys if service else ():
            service.loop.cancel(key)  # type: ignore[union-attr]
        self._keys = []

    async def _wait_for_departure(self) -> None:
        while True:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                return

    async def _next(self, left: asyncio.Task[None]) -> tuple[int, Event]:
        """The next event.

        Raises:
            MmbuildError: The engine's, or MM876, it takes too long.
            ClientDisconnect: The client has left.
        """
        rest = self._began + self._server.limits.answer_seconds - time.monotonic()
        getting = asyncio.ensure_future(self._events.get())
        try:
            await asyncio.wait({getting, left}, timeout=max(0, rest), return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                if left.done():
                    raise ClientDisconnect
                seconds = self._server.limits.answer_seconds
                raise ProtocolError(
                    f"the answer takes longer than {seconds:g} s",
                    code="MM876",
                    hint="request fewer tokens",
                    status=504,
                )
        finally:
            if not getting.done():
                getting.cancel()
        choice, event = getting.result()
        if isinstance(event, Failed):
            raise event.error
        self._note(event)
        return choice, event

    def _note(self, event: Event) -> None:
        if isinstance(event, Piece) and event.tokens:
            self._tokens += len(event.tokens)
            self._first = self._first or time.monotonic() - self._began
        if isinstance(event, Done):
            self._queued = max(self._queued, event.queued)

    async def _whole(
        self, body: Any, form: Form, first: tuple[int, Event], left: asyncio.Task[None]
    ) -> Response:
        done: dict[int, Done] = {}
        logprobs: dict[int, list[TokenLogprob]] = {choice: [] for choice in range(body.n or 1)}
        wanted = body.logprobs is not None and body.logprobs is not False
        choice, event = first
        while True:
            if isinstance(event, Done):
                done[choice] = event
                if len(done) == (body.n or 1):
                    break
            elif isinstance(event, Piece):
                logprobs[choice] += event.logprobs
            choice, event = await self._next(left)
        choices = [(done[place], logprobs[place] if wanted else None) for place in sorted(done)]
        self.close(200, ",".join(sorted({one.reason for one in done.values()})))
        return JSONResponse(form.whole(choices, self._prompt))

    async def _chunks(
        self, body: Any, form: Form, first: tuple[int, Event], left: asyncio.Task[None]
    ) -> AsyncIterator[str]:
        started: set[int] = set()
        ended = tokens = 0
        wanted = body.logprobs is not None and body.logprobs is not False
        choice, event = first
        while True:
            if isinstance(event, Piece):
                fresh = choice not in started
                started.add(choice)
                if event.text or fresh or (wanted and event.logprobs):
                    shown = event.logprobs if wanted else None
                    yield json.dumps(form.chunk(choice, event.text, shown, first=fresh))
            elif isinstance(event, Done):
                tokens += len(event.tokens)
                yield json.dumps(form.chunk(choice, None, None, event.reason, first=choice not in started))
                ended += 1
                if ended == (body.n or 1):
                    break
            try:
                choice, event = await self._next(left)
            except MmbuildError as error:
                yield json.dumps(body_of(error))
                self.close(status_of(error), error.code)
                return
        if body.stream_options is not None and body.stream_options.include_usage:
            yield json.dumps(form.last_chunk(self._prompt, tokens))
        yield "[DONE]"

    def _end_of_stream(self, reason: str | None, left: asyncio.Task[None]) -> None:
        left.cancel()
        self.close(200 if reason is None else _GONE, reason or "stream")

    def close(self, status: int, what: str) -> None:
        """The end, however it came: give up what is left, count and log it. Only the first call counts."""
        if self._closed:
            return
        self._closed = True
        self._cancel()
        total = time.monotonic() - self._began
        self._server.metrics.request(status)
        if self._tokens:
            self._server.metrics.answer(self._prompt, self._tokens, self._queued, self._first, total)
        first = "-" if self._first is None else f"{self._first:.3f}"
        self._server.log(
            f"{self._request.url.path} {status} {what} prompt={self._prompt} tokens={self._tokens} "
            f"queued={self._queued:.3f} first={first} total={total:.3f}"
        )
