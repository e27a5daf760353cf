"""Runs the endpoints until the process is asked to stop."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.status_line import working
from mmbuild.serving.address import listener, require_key
from mmbuild.serving.app import Limits, Server
from mmbuild.serving.engine_loop import EngineLoop, Step
from mmbuild.serving.pictures import PicturePolicy
from mmbuild.serving.preparation import Preparers
from mmbuild.serving.service import Service

_LAST_SECONDS = 0.5
"""How long a server without its engine still says so. mpirun leaves rank 0 about a second after it lost another."""


@dataclass(frozen=True, slots=True)
class Companions:
    """Processes without which the engine cannot be used: its other ranks.

    Attributes:
        ended: Process id -> the error that its end means; called when the engine has been loaded.
        terminated: The error that SIGTERM means. It comes from what started all of them, when one has ended; a server
            that shall end gets SIGINT.
    """

    ended: Callable[[], Mapping[int, MmbuildError]]
    terminated: MmbuildError


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve.

    Attributes:
        host: Address to listen at.
        port: Port; 0: a free one.
        api_key: Key that clients must send; None: any.
        model: The model's name in the protocol.
        queue: Requests that may wait.
        longest_wait: Seconds that reading a prompt may hold up other answers in a step.
        drain_seconds: Time for answers under way after SIGTERM.
        policy: Which pictures are taken.
        limits: What a client may take.
        trace: File for one line of JSON for each step; None: no trace.
        companions: Processes that the engine needs; None: only this one.
        preparers: Processes that prepare requests; None: threads of this one do.
    """

    host: str
    port: int
    api_key: str | None
    model: str
    queue: int = 64
    longest_wait: float = 0.2
    drain_seconds: float = 30.0
    policy: PicturePolicy = field(default_factory=PicturePolicy)
    limits: Limits = field(default_factory=Limits)
    trace: Path | None = None
    companions: Companions | None = None
    preparers: Preparers | None = None


def serve(load: Callable[[], Any], options: Options, say: Callable[[str], None]) -> bool:
    """Listen at once, load the engine, and answer until SIGTERM or SIGINT.

    Args:
        load: Loads the engine.
        options: How to serve.
        say: Prints a line for people.

    Returns:
        Whether the engine was loaded when the server was asked to stop; else a thread is still loading it.

    Raises:
        MmbuildError: The engine cannot be loaded or was lost, or the address cannot be used (MM873).
    """
    require_key(options.host, options.api_key)
    server = Server(options.api_key, options.limits, _logger(say))
    with ExitStack() as stack:
        trace = stack.enter_context(options.trace.open("a", encoding="utf-8")) if options.trace else None
        runner = _Runner(server, load, options, say, trace)
        asyncio.run(runner.run())
    if runner.failure is not None:
        raise runner.failure
    return server.service is not None


def _logger(say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}")


class _Runner:
    """The server and the engine's loading, side by side."""

    def __init__(
        self,
        server: Server,
        load: Callable[[], Any],
        options: Options,
        say: Callable[[str], None],
        trace: IO[str] | None,
    ) -> None:
        self._server, self._load, self._options, self._say, self._trace = server, load, options, say, trace
        self.failure: BaseException | None = None
        self._http: Any = None
        self._events: Any = None

    async def run(self) -> None:
        """Until the process is asked to stop."""
        import uvicorn

        from mmbuild.serving.http import HttpServer, TimedProtocol

        options = self._options
        config = uvicorn.Config(
            self._server.app(),
            host=options.host,
            port=options.port,
            http=TimedProtocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, int(options.drain_seconds)),
            h11_max_incomplete_event_size=64_000,
        )
        others = options.companions
        terminated = partial(self._lose, others.terminated) if others else None
        self._http = http = HttpServer(config, terminated, self._say_stopping)
        self._events = asyncio.get_running_loop()
        if options.preparers is not None:
            # By this thread, with which they end.
            options.preparers.start()
        loading = threading.Thread(target=self._prepare, args=(http,), name="load", daemon=True)
        bound = listener(options.host, options.port, config.backlog)
        host, port = bound.getsockname()[:2]
        self._say(f"listening at http://{f'[{host}]' if ':' in host else host}:{port}")
        loading.start()
        try:
            await http.serve(sockets=[bound])
        finally:
            bound.close()
            if options.preparers is not None:
                options.preparers.close()
            if self._server.service is not None:
                # The thread of a lost engine may wait for a rank that is gone.
                at_once = http.force_exit or self._server.lost is not None
                patience = _LAST_SECONDS if at_once else options.drain_seconds
                await asyncio.to_thread(self._server.service.loop.close, patience)

    def _say_stopping(self) -> None:
        service = self._server.service
        count = 0 if service is None else sum(service.loop.counts())
        answers = f"{count} answer{'' if count == 1 else 's'}"
        wait = f" after {answers}, in {self._options.drain_seconds:g} s at the latest" if count else ""
        self._say(f"stopping{wait}; another signal ends it at once")

    def _lose(self, error: MmbuildError) -> None:
        """Fail all requests with ``error`` and end the server, but say so first to those who ask now."""
        if self._server.lost is not None:
            return
        self._server.lost = self.failure = error
        self._say(f"engine lost: {error.message} [{error.code}]")
        if self._server.service is not None:
            self._server.service.loop.abandon(error)
        asyncio.get_running_loop().call_later(_LAST_SECONDS, setattr, self._http, "should_exit", True)

    def _watch(self, companions: Companions) -> None:
        """Notice the end of each of the other processes."""
        for pid, error in companions.ended().items():
            try:
                self._events.add_reader(os.pidfd_open(pid), self._lose, error)
            except ProcessLookupError:
                self._lose(error)

    def _lose_soon(self, error: MmbuildError) -> None:
        """:meth:`_lose`, from the engine's thread."""
        self._events.call_soon_threadsafe(self._lose, error)

    def _prepare(self, http: Any) -> None:
        """Load the engine, then take requests. Failure stops the server."""
        try:
            began = time.monotonic()
            with working("loading the engine"):
                engine = self._load()
                engine.prepare()
            options = self._options
            loop = EngineLoop(
                engine,
                queue=options.queue,
                longest_wait=options.longest_wait,
                trace=self._write_trace,
                lost=self._lose_soon,
            )
            loop.start()
            self._server.service = Service(engine, loop, options.model, options.policy, options.preparers)
            if options.companions is not None:
                self._events.call_soon_threadsafe(self._watch, options.companions)
            self._say(f"ready: `{options.model}`, loaded in {time.monotonic() - began:.1f} s")
        except BaseException as error:  # raised again in the main thread
            self.failure = self.failure or error
            http.should_exit = True

    def _write_trace(self, step: Step) -> None:
        if self._trace is not None:
            print(json.dumps(asdict(step)), file=self._trace, flush=True)


def status(line: str) -> None:
    """Print a line to stderr at once."""
    print(line, file=sys.stderr, flush=True)
