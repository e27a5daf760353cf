"""The HTTP endpoints."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mmbuild.base.errors import MmbuildError
from mmbuild.base.limits import SERVED_REQUEST
from mmbuild.base.terminal_text import one_line
from mmbuild.models.errors import EngineError
from mmbuild.serving.answers import Form
from mmbuild.serving.errors import ProtocolError, body_of, retry_after, status_of
from mmbuild.serving.event_stream import EventStream
from mmbuild.serving.inbox import Inbox, Post
from mmbuild.serving.jobs import Done, Event, Failed, Piece, TokenLogprob
from mmbuild.serving.metrics import CONTENT_TYPE, Metrics
from mmbuild.serving.protocol import Chat, Completion, Generation
from mmbuild.serving.service import Service

_SHOWN = 200  # characters of an unknown path
_GONE = 499  # nginx's status for clients that have left
_Arrived = tuple[int, Event] | Exception
"""A choice and its event, or what ends the request: the client has left, or it takes too long."""


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


async def _no_endpoint(endpoints: Sequence[str], request: Request, error: Exception) -> Response:
    """MM874 for another path, or another method than the endpoint's."""
    refused = ProtocolError(
        f"there is no endpoint `{request.method} {one_line(request.url.path)[:_SHOWN]}`",
        code="MM874",
        hint=f"use one of {', '.join(endpoints)}",
        status=getattr(error, "status_code", 404),
    )
    return JSONResponse(body_of(refused), refused.status, getattr(error, "headers", None))


@dataclass
class Server:
    """What the endpoints share.

    Attributes:
        api_key: The key that clients must know; None: any.
        limits: What a client may take.
        log: Gets one line for each request.
        service: The engine, once it is loaded.
        lost: Why there is no engine any more; the process is about to end.
    """

    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    log: Callable[[str], None] = lambda _: None
    service: Service | None = None
    lost: MmbuildError | None = None
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.service.loop.counts() if self.service else (0, 0))

    @cached_property
    def post(self) -> Post:
        """What carries the engine's events to this event loop."""
        return Post(asyncio.get_running_loop())

    def ready(self) -> Service:
        """The engine.

        Raises:
            EngineError: MM871, it is not loaded yet; MM872, it has stopped.
            MmbuildError: It was lost.
        """
        if self.lost is not None:
            raise self.lost
        if self.service is None:
            raise EngineError("the engine is being loaded", code="MM871", hint="try again in a moment")
        if not self.service.loop.is_alive:
            raise EngineError("the engine has stopped", code="MM872", hint="restart the server")
        return self.service

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/health", self._guarded(self._health)),
            Route("/ready", self._guarded(self._ready)),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._guarded(self._models)),
            Route("/v1/chat/completions", self._guarded(self._answering(Chat)), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._answering(Completion)), methods=["POST"]),
        ]
        endpoints = [
            f"{'POST' if 'POST' in (route.methods or ()) else 'GET'} {route.path}" for route in routes
        ]
        elsewhere = partial(_no_endpoint, endpoints)
        return Starlette(routes=routes, exception_handlers={404: elsewhere, 405: elsewhere})

    async def _health(self, _: Request) -> Response:
        if self.lost is not None:
            raise self.lost
        return JSONResponse({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        return JSONResponse({"status": "ready", "model": self.ready().model})

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def _models(self, _: Request) -> Response:
        service = self.ready()
        config = service.engine.config
        model = {"id": service.model, "object": "model", "created": 0, "owned_by": "mmbuild"}
        # The first is vLLM's word, the second recipes'; `mmbuild bench` asks for no more tokens.
        lengths = {
            "max_model_len": config.max_input_len + config.max_output_len,
            "max_output_len": config.max_output_len,
        }
        return JSONResponse({"object": "list", "data": [{**model, **lengths}]})

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
        self._inbox: Inbox[_Arrived] = Inbox()
        self._watches: list[asyncio.Task[None] | asyncio.TimerHandle] = []
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
        content = await self._body()
        self._began = time.monotonic()
        body, encoded = await service.prepare(content, self._kind)
        self._prompt = len(encoded.ids)
        self._submit(service, body, encoded)
        self._watch()
        form = Form(self._kind is Chat, service.model, lambda token: service.engine.decoded([token]))
        first = await self._inbox.take()
        _opened(first[0])
        if body.stream:
            return EventStream(self._chunks(body, form, first), limits.write_seconds, self._end_of_stream)
        return await self._whole(body, form, first)

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
        post = self._server.post
        try:
            for choice in range(body.n or 1):
                report = partial(self._report, post, choice)
                job = service.job(body, encoded, choice, report, post.send)
                self._keys.append(service.loop.submit(job))
        except MmbuildError:
            self._cancel()
            raise

    def _report(self, post: Post, choice: int, event: Event) -> None:
        post.put(self._inbox, (choice, event))

    def _cancel(self) -> None:
        service = self._server.service
        for key in self._keys if service else ():
            service.loop.cancel(key)  # type: ignore[union-attr]
        self._keys = []

    def _watch(self) -> None:
        """Notice that the client has left, and that the answer takes too long."""
        seconds = self._server.limits.answer_seconds
        late = ProtocolError(
            f"the answer takes longer than {seconds:g} s",
            code="MM876",
            hint="request fewer tokens",
            status=504,
        )
        loop = asyncio.get_running_loop()
        left = self._began + seconds - time.monotonic()
        self._watches = [
            loop.create_task(self._wait_for_departure()),
            loop.call_later(max(0.0, left), self._inbox.put, late),
        ]

    async def _wait_for_departure(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._inbox.put(ClientDisconnect())

    def _note(self, event: Event) -> None:
        if isinstance(event, Piece) and event.tokens:
            self._tokens += len(event.tokens)
            self._first = self._first or time.monotonic() - self._began
        if isinstance(event, Done):
            self._queued = max(self._queued, event.queued)

    async def _whole(self, body: Any, form: Form, arrived: Sequence[_Arrived]) -> Response:
        done: dict[int, Done] = {}
        logprobs: dict[int, list[TokenLogprob]] = {choice: [] for choice in range(body.n or 1)}
        while True:
            for item in arrived:
                choice, event = _opened(item)
                self._note(event)
                if isinstance(event, Done):
                    done[choice] = event
                elif isinstance(event, Piece):
                    logprobs[choice] += event.logprobs
            if len(done) == (body.n or 1):
                break
            arrived = await self._inbox.take()
        wanted = _wants_logprobs(body)
        choices = [(done[place], logprobs[place] if wanted else None) for place in sorted(done)]
        self.close(200, ",".join(sorted({one.reason for one in done.values()})))
        return JSONResponse(form.whole(choices, self._prompt))

    async def _chunks(self, body: Any, form: Form, arrived: Sequence[_Arrived]) -> AsyncIterator[list[str]]:
        """The events of a stream, those together that are known at the same time."""
        chunks = _Chunks(form, body.n or 1, _wants_logprobs(body))
        while not chunks.ended:
            events: list[str] = []
            try:
                for item in arrived:
                    choice, event = _opened(item)
                    self._note(event)
                    events += chunks.of(choice, event)
            except MmbuildError as error:
                yield [*events, json.dumps(body_of(error))]
                self.close(status_of(error), error.code)
                return
            if events:
                yield events
            if not chunks.ended:
                arrived = await self._inbox.take()
        last = []
        if body.stream_options is not None and body.stream_options.include_usage:
            last = [json.dumps(form.last_chunk(self._prompt, chunks.tokens))]
        yield [*last, "[DONE]"]

    def _end_of_stream(self, reason: str | None) -> None:
        self.close(200 if reason is None else _GONE, reason or "stream")

    def close(self, status: int, what: str) -> None:
        """The end, however it came: give up what is left, count and log it. Only the first call counts."""
        if self._closed:
            return
        self._closed = True
        for watch in self._watches:
            watch.cancel()
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


class _Chunks:
    """Turns the events of a request's choices into chunks of its stream, as JSON.

    Attributes:
        tokens: Tokens of the choices that have ended.
    """

    def __init__(self, form: Form, choices: int, logprobs: bool) -> None:
        self._form, self._left, self._logprobs = form, choices, logprobs
        self._started: set[int] = set()
        self.tokens = 0

    @property
    def ended(self) -> bool:
        """Whether all choices have."""
        return self._left == 0

    def of(self, choice: int, event: Event) -> list[str]:
        """The chunks for an event: one or none."""
        first = choice not in self._started
        self._started.add(choice)
        if isinstance(event, Done):
            self._left -= 1
            self.tokens += len(event.tokens)
            return [json.dumps(self._form.chunk(choice, None, None, event.reason, first=first))]
        assert isinstance(event, Piece)
        if first or (self._logprobs and event.logprobs):
            shown = event.logprobs if self._logprobs else None
            return [json.dumps(self._form.chunk(choice, event.text, shown, first=first))]
        return [self._form.text_chunk(choice, event.text)] if event.text else []


def _wants_logprobs(body: Any) -> bool:
    return body.logprobs is not None and body.logprobs is not False


def _opened(item: _Arrived) -> tuple[int, Event]:
    """A choice and its event.

    Raises:
        MmbuildError: The engine's, or MM876, the answer takes too long.
        ClientDisconnect: The client has left.
    """
    if isinstance(item, Exception):
        raise item
    if isinstance(item[1], Failed):
        raise item[1].error
    return item
