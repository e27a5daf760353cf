"""``mmbuild serve`` as a user has it: a process that starts, answers, and ends on SIGTERM."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from support.engines.loaded import demo_directory
from support.serving.process import QUESTION, get, post, ready, serving, stream
from support.waiting import wait_for

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"


def test_it_is_up_at_once_answers_when_it_is_ready_and_ends_after_what_it_has_begun(tmp_path) -> None:
    trace = tmp_path / "trace.jsonl"
    with serving(demo_directory(), "--trace", str(trace)) as (process, url, lines):
        assert get(f"{url}/health").status_code == 200
        ready(url)
        answers = []

        def ask() -> None:
            with suppress(httpx.ConnectError):
                answers.append(post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while not answers:
            assert time.monotonic() < end
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


def test_a_second_signal_ends_it_without_the_answers_that_are_under_way() -> None:
    with serving(demo_directory(), "--queue", "100") as (process, url, lines):
        ready(url)
        answered = []

        def ask() -> None:
            body = {**QUESTION, "n": 16}
            with suppress(httpx.HTTPError):
                answered.append(post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for(lambda: "mmbuild_requests_running 0.0" not in get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: any(line.startswith("stopping after ") for line in lines))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        for thread in threads:
            thread.join(60)
        assert answered.count(200) < 8


def test_a_killed_server_can_be_started_again_at_once() -> None:
    with serving(demo_directory()) as (process, url, _):
        ready(url)
        process.kill()
        process.wait()
        port = url.rpartition(":")[2]
        with serving(demo_directory(), "--port", port) as (_, again, _):
            ready(again)
            assert post(f"{again}/v1/chat/completions", json=QUESTION, timeout=60).status_code == 200


def picture(kind: str) -> str:
    """A data: URL of a picture in a format."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(out.getvalue()).decode()


def send_100_megabytes(url: str) -> bytes:
    """Send that much in pieces; what comes back."""
    host, port = url.removeprefix("http://").split(":")
    part = b"%x\r\n%s\r\n" % (1_000_000, bytes(1_000_000))
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(100):
            connection.sendall(part)
        return connection.recv(4000)


def most_memory(process: subprocess.Popen) -> int:
    """Largest resident memory that a process has had, bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def vanish(url: str) -> None:
    """Begin to read an answer, then leave."""
    with stream("POST", url + CHAT, json={**QUESTION, "stream": True}, timeout=60) as response:
        next(response.iter_raw(), None)


def test_what_clients_do_wrong_leaves_the_server_as_it_was() -> None:
    with serving(demo_directory(), "--queue", "2") as (process, url, lines):
        ready(url)
        right = post(url + CHAT, json=QUESTION, timeout=60).json()["choices"]

        before = most_memory(process)
        assert b" 413 " in send_100_megabytes(url)
        assert most_memory(process) - before < 100e6, "what is beyond the limit of 64 MB is not kept"

        eps = [{"type": "image_url", "image_url": {"url": picture("EPS")}}]
        refused = post(url + CHAT, json={"messages": [{"role": "user", "content": eps}]}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "MM517")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(vanish, [url] * 8))

        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(httpx.post, url + CHAT, json=QUESTION, timeout=60) for _ in range(24)]
            responses = [one.result() for one in asked]
        full = [one for one in responses if one.status_code == 429]
        assert {one.status_code for one in responses} == {200, 429}
        assert all(1 <= int(one.headers["retry-after"]) <= 60 for one in full)
        assert {one.json()["error"]["code"] for one in full} == {"MM870"}
        assert all(one.json()["choices"] == right for one in responses if one.status_code == 200)

        assert post(url + CHAT, json=QUESTION, timeout=60).json()["choices"] == right
        metrics = get(f"{url}/metrics").text
        assert "mmbuild_requests_running 0.0" in metrics
        assert "mmbuild_requests_waiting 0.0" in metrics
        assert 'mmbuild_requests_total{status="413"} 1.0' in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "Traceback" not in "".join(lines)


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
