"""``mmbuild serve`` as a process of its own."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

# Without the certificates of authorities, which take 40 ms of CPU to load for each request.
get, post, request, stream = (
    partial(function, verify=False) for function in (httpx.get, httpx.post, httpx.request, httpx.stream)
)

QUESTION = {
    "messages": [{"role": "user", "content": "how many shapes ?"}],
    "max_tokens": 30,
    "ignore_eos": True,
}


@contextmanager
def serving(
    build: Path, *options: str, **variables: str
) -> Iterator[tuple[subprocess.Popen, str, list[str]]]:
    """A server on a free port: its process, URL, and the lines that it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mmbuild", "serve", str(build), "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )
    lines: list[str] = []
    try:
        assert process.stderr is not None
        stderr = process.stderr
        lines.append(stderr.readline())
        found = re.search(r"listening at (http://\S+)", lines[0])
        assert found, lines[0] + stderr.read()
        reader = threading.Thread(target=lambda: lines.extend(stderr), daemon=True)
        reader.start()
        yield process, found[1], lines
    finally:
        process.kill()
        process.wait()


def ready(url: str) -> None:
    """Wait until the engine is loaded."""
    end = time.monotonic() + 240
    while get(f"{url}/ready").status_code != 200:
        assert time.monotonic() < end
        threading.Event().wait(0.05)


def watched(pid: int) -> int | None:
    """A descriptor of a process; None where it is gone already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def ends(watch: int | None) -> bool:
    """Whether the process ends, before long."""
    if watch is None:
        return True
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    found = poll.poll(240_000)
    os.close(watch)
    return bool(found)
