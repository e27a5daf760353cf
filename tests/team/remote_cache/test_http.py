"""A directory behind a web server: read-only, with ranges and without."""

import functools
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.verify import check_store
from mmbuild.team.remote_cache.gc import collect
from mmbuild.team.remote_cache.push import check_writable
from support.projects.machines import Machine
from support.steps.trivial import action, chain


class Plain(SimpleHTTPRequestHandler):
    """Does not support ranges; requires a token if the server has one."""

    def do_GET(self):
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send_error(401)
            return
        self.answer()

    def answer(self):
        super().do_GET()

    def log_message(self, *_):
        pass


class Ranged(Plain):
    """Answers ranges with 206, as web servers do."""

    def answer(self):
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        if found is None:
            super().answer()
            return
        try:
            with open(path, "rb") as stream:
                content = stream.read()
        except OSError:
            self.send_error(404)
            return
        first, last = int(found[1]), min(int(found[2]), len(content) - 1)
        self.server.ranges.append((first, last))
        self.send_response(206)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first : last + 1])


@pytest.fixture(params=[Plain, Ranged])
def server(request, tmp_path):
    handler = functools.partial(request.param, directory=str(tmp_path / "shared"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.token, server.ranges = "", []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def reader(server, tmp_path):
    """A machine that reads through the web server what others write into the directory."""
    return Machine(tmp_path / "reader", url=f"http://127.0.0.1:{server.server_port}", push=False)


def test_results_are_taken_and_nothing_is_published(one, reader, server):
    engine = action("large", "r/0", bytes=9 << 20)
    graph = RecipeGraph("r", (engine,), engine.definition_key)
    one.apply(graph, chain("s"))
    assert reader.apply(graph, chain("s")).ran == ()
    assert reader.bytes("r") == one.bytes("r")
    assert [notice.code for notice in reader.notices] == ["MM767"], "over http, what comes could be exchanged"
    assert check_store(reader.store).faults == ()
    assert reader.apply(chain("t", text="c")).ran == ("t/0", "t/1", "t/2")
    assert (len(server.ranges) > 2) is (server.RequestHandlerClass.func is Ranged)


def test_publishing_and_collecting_are_refused_with_the_reason(reader):
    for refused in (lambda: check_writable(reader.shared()), lambda: collect(reader.shared(), max_size=0)):
        with pytest.raises(MmbuildError, match="is read-only") as caught:
            refused()
        assert caught.value.code == "MM824"


def test_a_store_that_cannot_be_published_to_is_reported_once(reader):
    reader.push = True
    assert reader.apply(chain("r")).ok
    assert [notice.code for notice in reader.notices] == ["MM767", "MM824"]


def test_a_token_is_sent_but_never_printed(one, reader, server):
    server.token = "ghp-very-secret-token"
    one.apply(chain("r"))
    assert reader.verdicts(chain("r"))["r/2"] == "run"
    assert reader.codes() == {"MM767", "MM821"}
    headers = {"headers": {"Authorization": f"Bearer {server.token}"}}
    reader.settings = {"options": {"client_kwargs": headers}}
    assert reader.apply(chain("r")).ran == ()
    assert server.token not in str(reader.notices) + str(reader.events)
    for path in (reader.root / "store").rglob("*"):
        assert not path.is_file() or server.token.encode() not in path.read_bytes()
