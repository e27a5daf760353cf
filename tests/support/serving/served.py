"""A server on loopback, with any engine, in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import uvicorn

from mmbuild.serving.address import listener
from mmbuild.serving.app import Limits, Server
from mmbuild.serving.engine_loop import EngineLoop, Step
from mmbuild.serving.http import TimedProtocol
from mmbuild.serving.pictures import PicturePolicy
from mmbuild.serving.service import Service


@dataclass
class Served:
    """A running server.

    Attributes:
        server: What the endpoints share.
        loop: What runs the engine.
        port: Its port.
        lines: Its log.
        steps: What each turn did.
    """

    server: Server
    loop: EngineLoop
    port: int
    lines: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options) -> httpx.Client:
        # Without the certificates of authorities, which take 40 ms of CPU to load.
        return httpx.Client(base_url=self.url, timeout=240, verify=False, **options)


@contextmanager
def served(engine, *, api_key=None, limits=None, queue=10, ready=True) -> Iterator[Served]:
    steps: list[Step] = []
    lines: list[str] = []
    loop = EngineLoop(engine, queue=queue, trace=steps.append)
    loop.start()
    server = Server(api_key, limits or Limits(), lines.append)
    service = Service(engine, loop, "numbers", PicturePolicy())
    if ready:
        server.service = service
    config = uvicorn.Config(
        server.app(),
        host="127.0.0.1",
        port=0,
        http=TimedProtocol,
        lifespan="off",
        log_level="critical",
        access_log=False,
    )
    http = uvicorn.Server(config)
    socket = listener(config.host, config.port, config.backlog)
    thread = threading.Thread(target=http.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    try:
        yield Served(server, loop, socket.getsockname()[1], lines, steps)
    finally:
        if hasattr(engine.session, "gate"):
            engine.session.gate.set()
        http.should_exit = True
        thread.join(20)
        socket.close()
        loop.close(20)
