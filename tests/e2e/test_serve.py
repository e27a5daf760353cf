"""``mmbuild serve`` as a user has it: a process that starts, answers, and ends on SIGTERM."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from support.engines.loaded import demo_directory

pytestmark = pytest.mark.slow
QUESTION = {
    "messages": [{"role": "user", "content": "how many shapes ?"}],
    "max_tokens": 30,
    "ignore_eos": True,
}


@contextmanager
def serving(*options: str):
    """A server on a free port: its process, URL, and the lines that it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mmbuild", "serve", str(demo_directory()), "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
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
    end = time.monotonic() + 60
    while httpx.get(f"{url}/ready").status_code != 200:
        assert time.monotonic() < end
        threading.Event().wait(0.05)


def test_it_is_up_at_once_answers_when_it_is_ready_and_ends_after_what_it_has_begun(tmp_path) -> None:
    trace = tmp_path / "trace.jsonl"
    with serving("--trace", str(trace)) as (process, url, lines):
        assert httpx.get(f"{url}/health").status_code == 200
        ready(url)
        answers = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        while not answers:
            threading.Event().wait(0.001)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(60) == 0
        # Those that had been accepted are answered; the listening socket is closed for the others.
        assert set(answers) == {200}
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    assert max(step["decoded"] for step in steps) >= 2
    assert sum("/v1/chat/completions 200" in line for line in lines) == len(answers)


def test_a_killed_server_can_be_started_again_at_once() -> None:
    with serving() as (process, url, _):
        ready(url)
        process.kill()
        process.wait()
        port = url.rpartition(":")[2]
        with serving("--port", port) as (_, again, _):
            ready(again)
            assert httpx.post(f"{again}/v1/chat/completions", json=QUESTION, timeout=60).status_code == 200


def failing(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mmbuild", "serve", str(demo_directory()), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_without_a_key_nobody_else_can_connect(tmp_path) -> None:
    assert "MM879" in failing("--host", "0.0.0.0")
    assert "MM879" in failing("--api-key-file", str(tmp_path / "none"))
    (tmp_path / "empty").write_text("\n")
    assert "MM879" in failing("--api-key-file", str(tmp_path / "empty"))


def test_a_port_that_is_taken_is_named() -> None:
    with serving() as (_, url, _):
        port = url.rpartition(":")[2]
        assert f"port {port}: Address already in use [MM873]" in failing("--port", port)
