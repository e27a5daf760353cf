"""A shared store with malicious content causes a warning and a local build."""

import json
import os
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from blake3 import blake3

from mmbuild.base.canonical_json import canonical_json
from mmbuild.base.limits import SHARED_ENTRY, STORE_TREE
from mmbuild.team.remote_cache import pull as pulling
from mmbuild.team.remote_cache.records import EntryError, parse_entry, parse_manifest
from mmbuild.team.remote_cache.retrying_client import LEAST_RATE, Flow, RetryingClient, UnreachableError
from support.projects.machines import Machine
from support.steps.trivial import chain

KEY, DIGEST = "1" * 64, "2" * 64
ENTRY = {
    "entry": 1,
    "key": KEY,
    "definition": DIGEST,
    "body": DIGEST,
    "artifact": DIGEST,
    "inputs": {"model": DIGEST},
    "label": "r/convert",
    "host": "host",
    "size": 10,
    "seconds": 1.5,
    "memory": 1000,
    "at": 1.7e9,
    "reference": False,
    "signatures": [{"key": "ed25519:x", "signature": "y"}],
}
FILE = {"path": "a/b", "digest": DIGEST, "size": 3}


def test_what_is_published_is_read():
    shared, _, signatures = parse_entry(canonical_json(ENTRY), KEY)
    assert shared.record.digest == DIGEST
    assert len(signatures) == 1


HOSTILE = [
    b"",
    b"\x00",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"entry": 1, "key": "%s", "seconds": Infinity}' % KEY.encode(),
    b" " * (SHARED_ENTRY.size + 1),
    *(
        json.dumps({**ENTRY, **change}).encode()
        for change in (
            {"size": 10**17},
            {"size": 10**400},
            {"size": -1},
            {"size": True},
            {"size": "10"},
            {"seconds": float("inf")},
            {"seconds": float("nan")},
            {"at": 1e300},
            {"label": "x" * 5000},
            {"label": "\0"},
            {"label": "\ud800"},
            {"label": None},
            {"host": ["a"]},
            {"artifact": "../../etc"},
            {"artifact": DIGEST.upper() + "A"},
            {"inputs": []},
            {"inputs": {"a": 1}},
            {"inputs": {"\ud800": DIGEST}},
            {"reference": 1},
            {"signatures": {}},
            {"signatures": [1]},
            {"signatures": [{"key": 1, "signature": 2}]},
            {"signatures": [{"key": "a", "signature": "b"}] * 101},
            {"entry": 2},
            {"entry": True},
            {"key": DIGEST},
            {"more": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]},
        )
    ),
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:40].decode("latin-1"))
def test_an_entry_that_was_made_to_do_harm_is_refused(text):
    with pytest.raises(EntryError):
        parse_entry(text, KEY)


def manifest(*files, **more):
    text = canonical_json({"tree": 1, "entries": list(files), **more})
    return text, blake3(text).hexdigest()


def test_a_canonical_manifest_is_read():
    assert parse_manifest(*manifest(FILE)).entries[0].path == "a/b"


NOT_CANONICAL = json.dumps({"tree": 1, "entries": [FILE]}, indent=1).encode()
BAD_MANIFESTS = [
    *(
        manifest({**FILE, **change})
        for change in (
            {"path": "../a"},
            {"path": "/a"},
            {"path": "a\0b"},
            {"path": "a" * 5000},
            {"path": "a/" * 2000 + "a"},
            {"path": ""},
            {"path": 7},
            {"digest": "../x"},
            {"size": -1},
            {"size": 10**17},
            {"size": 1.5},
            {"size": None},
            {"ref": "/etc/passwd"},
            {"executable": False},
            {"executable": 1},
            {"more": 1},
        )
    ),
    manifest(FILE, FILE),
    manifest(FILE, {**FILE, "path": "a"}),
    manifest({**FILE, "path": "b"}, FILE),
    manifest(FILE, more=1),
    (NOT_CANONICAL, blake3(NOT_CANONICAL).hexdigest()),
    (b"[" * 5000, blake3(b"[" * 5000).hexdigest()),
    (b"{}", blake3(b"{}").hexdigest()),
    (manifest(FILE)[0], "0" * 64),
]


@pytest.mark.parametrize(("text", "digest"), BAD_MANIFESTS)
def test_a_manifest_that_is_not_that_of_its_files_is_refused(text, digest):
    with pytest.raises(EntryError):
        parse_manifest(text, digest)


def test_no_mutant_of_an_entry_or_a_manifest_gets_through_with_anything_but_a_refusal():
    rng = random.Random(13)
    texts = (canonical_json(ENTRY), manifest(FILE)[0])
    for _ in range(3000):
        which = rng.randrange(2)
        text = bytearray(texts[which])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(3)] = rng.choice(
                (b"", b"\x00", b"[", b"{", b"9" * 30, b"1e999", b"null", b"\xff")
            )
        try:
            if which:
                parse_manifest(bytes(text), blake3(bytes(text)).hexdigest())
            else:
                parse_entry(bytes(text), KEY)
        except EntryError:
            pass


def place_of(machine):
    return machine.root.parent / "shared" / "v1"


def entry_file(machine, name="r"):
    return next(
        path for path in place_of(machine).glob("actions/*/*.json") if f'"{name}/2"' in path.read_text()
    )


def to_fifo(path):
    path.unlink()
    os.mkfifo(path)


def to_directory(path):
    path.unlink()
    path.mkdir()


def to_link(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def to_loop(path):
    path.unlink()
    path.symlink_to(path.name)


def to_large(path):
    with open(path, "wb") as stream:
        stream.truncate(STORE_TREE.size + SHARED_ENTRY.size + (1 << 20))


def to_nothing(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("what", "how"),
    [
        *(("actions", how) for how in (to_fifo, to_directory, to_link, to_loop, to_large, to_nothing)),
        *(("manifests", how) for how in (to_fifo, to_large, to_nothing)),
        *(("objects", how) for how in (to_fifo, to_link, to_nothing)),
    ],
)
def test_something_else_in_place_of_a_file_costs_a_warning(one, other, how, what):
    one.apply(chain("r", links=1))
    for path in list(place_of(one).glob(f"{what}/*/*")):
        how(path)
    begin = time.monotonic()
    assert other.apply(chain("r", links=1)).ok
    assert time.monotonic() - begin < 5
    assert other.bytes("r") == one.bytes("r")
    assert "MM822" in other.codes()


def test_a_manifest_that_is_not_canonical_is_pulled_once_at_most(one, other):
    one.apply(chain("r"))
    (path,) = {entry_file(one)}
    entry = json.loads(path.read_text())
    good = place_of(one) / "manifests" / entry["artifact"][:2] / f"{entry['artifact']}.json"
    text = json.dumps(json.loads(good.read_text()), indent=1).encode()
    digest = blake3(text).hexdigest()
    bad = place_of(one) / "manifests" / digest[:2] / f"{digest}.json"
    bad.parent.mkdir(exist_ok=True)
    bad.write_bytes(text)
    path.write_bytes(canonical_json({**entry, "artifact": digest}))
    assert other.apply(chain("r")).ok
    assert other.bytes("r") == one.bytes("r")
    assert "MM822" in other.codes()


def test_an_artifact_that_the_disk_has_no_room_for_is_built_here(one, other, monkeypatch):
    one.apply(chain("r"))
    full = pulling.shutil.disk_usage("/")._replace(free=1)
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: full)
    assert other.apply(chain("r")).ok
    assert any("MB free" in notice.message for notice in other.notices)


def test_a_flow_is_stuck_after_a_window_with_too_little():
    now = [100.0]
    flow = Flow(30.0, lambda: now[0])
    for _ in range(120):
        now[0] += 1
        flow.add(LEAST_RATE)
        assert not flow.stuck(100.0), "a transfer that progresses has no limit"
    now[0] += 29
    assert flow.stuck(100.0), "less than the least rate over the window"
    assert not flow.stuck(now[0] - 29), "a transfer that has just begun"


class Trickle(BaseHTTPRequestHandler):
    """Sends a body, or even headers, a byte at a time."""

    def do_GET(self):
        try:
            if self.server.headers_too:
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(1 << 30))
                self.end_headers()
            while not self.server.over.wait(0.01):
                self.wfile.write(b"x")
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("headers_too", [False, True])
def test_a_server_that_sends_a_byte_at_a_time_is_given_up(tmp_path, headers_too):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    server.headers_too, server.over = headers_too, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    machine = Machine(tmp_path / "m", url=f"http://127.0.0.1:{server.server_port}", push=False)
    shared = machine.shared()
    shared.calls.flow.window = 0.3
    try:
        with pytest.raises(UnreachableError):
            shared.read_part("objects/00/blob", 0, 8 << 20)
        assert "KiB/s" in shared.calls.down
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


class Endless(BaseHTTPRequestHandler):
    """Sends more than was requested, without end."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" * 65536)
                self.server.sent += 65536
        except OSError:
            pass

    def log_message(self, *_):
        pass


def test_no_more_is_read_than_requested(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.sent = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    machine = Machine(tmp_path / "m", url=f"http://127.0.0.1:{server.server_port}", push=False)
    try:
        assert len(machine.shared().read_part("objects/00/blob", 0, 1000)) == 1000
        assert machine.apply(chain("r")).ok
        assert server.sent < 100 << 20
    finally:
        server.shutdown()
        server.server_close()


def test_a_request_that_is_never_answered_ends_with_the_window():
    calls = RetryingClient("there", 0.05, lambda _: None, pause=0.0, flow=Flow(0.1))
    calls.do(lambda: None)
    begin = time.monotonic()
    with pytest.raises(UnreachableError):
        calls.do(threading.Event().wait)
    assert time.monotonic() - begin < 2
    assert calls.down


def test_small_pieces_are_requested_if_reads_report_no_progress():
    now = [0.0]
    calls = RetryingClient("there", 1.0, lambda _: None, flow=Flow(30.0, lambda: now[0]))
    small = calls.piece
    calls.read(lambda: b"", small)
    assert calls.piece == 2 * small

    def slow():
        now[0] += 6.0
        return b""

    calls.read(slow, 2 * small)
    assert calls.piece == small


def test_plain_http_without_signatures_is_warned_of(tmp_path):
    machine = Machine(tmp_path / "m", url="http://127.0.0.1:9", push=False)
    assert machine.apply(chain("r")).ok
    assert "MM767" in machine.codes()
    signed = Machine(
        tmp_path / "n", url="http://127.0.0.1:9", push=False, settings={"require_signatures": True}
    )
    assert signed.apply(chain("r")).ok
    assert "MM767" not in signed.codes()
