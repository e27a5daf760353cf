"""A small Hugging Face hub on the loopback interface, with faults on demand.

Serves what ``huggingface_hub`` requests for a model, or for a data set if ``repo`` is ``datasets/owner/name``: its
information with file metadata, and its files with ETag, size, commit and byte ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

INFO = re.compile(
    r"/api/(?:models/)?(?P<repo>(?:datasets/)?[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<revision>[^?]+)"
)
FILE = re.compile(r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>[^?]+)")


@dataclass
class Hub:
    """The state of the hub; tests change it while it runs.

    Attributes:
        commits: Files of each commit, ``{commit: {name: content}}``.
        branches: ``{branch: commit}``.
        cut: Bytes after which the connection breaks, once for each entry, by file name.
        stall: Bytes after which a file's connection stays open and brings nothing more, by file name.
        sent: Content that is sent instead of the real one, by file name.
        fail: HTTP status for the next requests of a file or of ``info``, one for each entry.
        status: ``(status, error code)`` for every request, such as ``(401, "GatedRepo")``.
        token: Token that every request must bring.
        log: What was asked: ``("info", revision)``, ``("GET", name, range or None)``.
    """

    repo: str = "shapes/llava"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)
    fail: dict[str, list[int]] = field(default_factory=dict)
    status: tuple[int, str] | None = None
    token: str | None = None
    log: list[tuple[Any, ...]] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def fetch_counts(self) -> Counter[str]:
        """How often each file was fetched."""
        return Counter(entry[1] for entry in self.log if entry[0] == "GET")

    def commit_of(self, revision: str) -> str | None:
        revision = revision.replace("%2F", "/")
        return revision if revision in self.commits else self.branches.get(revision)


def commit_id(number: int) -> str:
    """A commit's name."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def model_files(directory: Path) -> dict[str, bytes]:
    """The files of a directory by name."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def digest(name: str, content: bytes) -> str:
    """ETag of a file: SHA-256 in LFS, git's blob id otherwise."""
    if is_lfs(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.hub
        if hub.status is not None:
            return self._error(*hub.status)
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._error(401, "RepoNotFound")
        info, file = INFO.match(self.path), FILE.match(self.path)
        match = info or file
        if match is None or match["repo"] != hub.repo:
            return self._error(404, "RepoNotFound")
        commit = hub.commit_of(match["revision"])
        if commit is None:
            return self._error(404, "RevisionNotFound")
        if body and hub.fail.get(match["name"] if file else "info"):
            return self._error(hub.fail[match["name"] if file else "info"].pop(0), "")
        if info:
            hub.log.append(("info", match["revision"]))
            return self._json((_tree if match["what"] == "tree" else _information)(hub, commit))
        if match["name"] not in hub.commits[commit]:
            return self._error(404, "EntryNotFound")
        return self._file(match["name"], commit, body=body)

    def _file(self, name: str, commit: str, *, body: bool) -> None:
        hub = self.hub
        real = hub.commits[commit][name]
        content = hub.sent.get(name, real)
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])  # type: ignore[index]
        if body:
            hub.log.append(("GET", name, self.headers.get("Range")))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{digest(name, real)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body and name in hub.stall:
            self.wfile.write(content[start : start + hub.stall[name]])
            self.close_connection = hub.closing.wait()
        elif body:
            cuts = hub.cut.get(name)
            stop = start + cuts.pop(0) if cuts else len(content)
            self.wfile.write(content[start:stop])
            if stop < len(content):
                self.close_connection = True

    def _json(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"test hub says {status}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests read ``Hub.log``."""


def _information(hub: Hub, commit: str) -> dict[str, Any]:
    siblings = []
    for name, content in hub.commits[commit].items():
        entry: dict[str, Any] = {
            "rfilename": name,
            "size": len(content),
            "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        }
        if is_lfs(name):
            entry["lfs"] = {"sha256": digest(name, content), "size": len(content), "pointerSize": 130}
        siblings.append(entry)
    return {"id": hub.repo, "modelId": hub.repo, "sha": commit, "siblings": siblings, "tags": []}


def _tree(hub: Hub, commit: str) -> list[dict[str, Any]]:
    tree = []
    for sibling in _information(hub, commit)["siblings"]:
        entry = {
            "type": "file",
            "path": sibling["rfilename"],
            "size": sibling["size"],
            "oid": sibling["blobId"],
        }
        if lfs := sibling.get("lfs"):
            entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        tree.append(entry)
    return tree


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve ``hub`` on a free port of the loopback interface."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
