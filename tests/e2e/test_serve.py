"""``mmbuild serve`` as a user has it: a process that starts, answers, and ends on SIGTERM."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from support.engines.loaded import demo_directory
from support.serving.process import QUESTION, ready, serving

pytestmark = pytest.mark.slow


def test_it_is_up_at_once_answers_when_it_is_ready_and_ends_after_what_it_has_begun(tmp_path) -> None:
    trace = tmp_path / "trace.jsonl"
    with serving(demo_directory(), "--trace", str(trace)) as (process, url, lines):
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
    with serving(demo_directory()) as (process, url, _):
        ready(url)
        process.kill()
        process.wait()
        port = url.rpartition(":")[2]
        with serving(demo_directory(), "--port", port) as (_, again, _):
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
    with serving(demo_directory()) as (_, url, _):
        port = url.rpartition(":")[2]
        assert f"port {port}: Address already in use [MM873]" in failing("--port", port)
