"""A server whose engine needs another process, which ends."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.serving import http as serving_http
from mmbuild.serving import server
from support.serving.fakes import FakeEngine
from support.serving.process import get

LONG = 300


class Lines(queue.Queue):
    """What the server prints."""

    def find(self, pattern: str) -> re.Match:
        """The next line with ``pattern``."""
        while not (found := re.search(pattern, self.get(timeout=LONG))):
            pass
        return found


@pytest.fixture
def other():
    """The other process."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_server_says_that_its_engine_is_lost_until_it_ends(other, monkeypatch) -> None:
    running = []

    class Http(serving_http.HttpServer):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            running.append(self)

    monkeypatch.setattr(serving_http, "HttpServer", Http)
    monkeypatch.setattr(server, "_LAST_SECONDS", LONG)  # the client ends it
    lost = RankError("rank 1 has ended", code="MM585")
    companions = server.Companions(lambda: {other.pid: lost}, lost)
    lines = Lines()

    def client() -> list[tuple[int, str]]:
        try:
            url = lines.find(r"listening at (\S+)")[1]
            lines.find("ready: `numbers`")
            other.kill()
            lines.find(r"engine lost: rank 1 has ended \[MM585\]")
            responses = [get(url + path, timeout=LONG) for path in ("/health", "/ready", "/health")]
            return [(response.status_code, response.json()["error"]["code"]) for response in responses]
        finally:
            running[0].should_exit = True

    options = server.Options("127.0.0.1", 0, None, "numbers", companions=companions)
    with ThreadPoolExecutor(1) as pool:
        refusals = pool.submit(client)
        with pytest.raises(RankError) as raised:
            server.serve(FakeEngine, options, lines.put)
        assert refusals.result() == [(503, "MM585")] * 3
    assert raised.value is lost
