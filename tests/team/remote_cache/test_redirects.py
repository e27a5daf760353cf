"""Redirects of a shared store behind a web server."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmbuild.config.shared_store_settings import Settings
from mmbuild.team.remote_cache.object_store import ObjectStore, connect
from mmbuild.team.remote_cache.retrying_client import MalformedError

Serve = Callable[[str], tuple[str, list[dict[str, str]]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that redirects to an address, or answers `here` without one: its address, and what it got."""
    servers = []

    def start(location: str) -> tuple[str, list[dict[str, str]]]:
        seen: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(302 if location else 200)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"here")

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def place_at(url: str) -> ObjectStore:
    return connect(Settings(url, options={"headers": {"X-Token": "secret"}}))


def test_a_redirect_to_another_host_gets_no_header_of_the_configuration(serve: Serve) -> None:
    other, seen_there = serve("")
    url, seen = serve(f"{other}/file")

    assert place_at(url).read("name", 0, 4) == b"here"
    assert seen[0]["x-token"] == "secret"
    assert "x-token" not in seen_there[0]
    assert seen_there[0]["range"] == "bytes=0-3"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://[::1/", "/again"])
def test_a_redirect_that_leads_nowhere_is_an_answer_and_no_failure(serve: Serve, location: str) -> None:
    url, _ = serve(location)

    with pytest.raises(MalformedError, match="is redirected"):
        place_at(url).read("name", 0, 4)
