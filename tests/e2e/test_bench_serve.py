"""``mmbuild bench --url`` and ``mmbuild serve``, each in its own process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from support.engines.loaded import BATCH, demo_directory
from support.serving.process import get, ready, serving

pytestmark = pytest.mark.slow
TOKENS = 12
WORDS = ("--image-size", "32", "--prompt", "how many ?", "--max-new-tokens", str(TOKENS), "--ignore-eos")


def bench(url: str, *words: str) -> subprocess.Popen[str]:
    """A measurement under way."""
    return subprocess.Popen(
        [sys.executable, "-m", "mmbuild", "bench", "--url", url, *WORDS, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def url():
    with serving(demo_directory(), "--model-name", "shapes") as (_, address, _):
        ready(address)
        yield address


def consistent(one: dict) -> None:
    """Times of a complete answer are positive and in their order."""
    assert one["failure"] is None
    assert one["counted"] == "usage"
    assert 0 <= one["due"] <= one["sent"] < one["first"] <= one["last"] <= one["ended"]  # in one read


def test_a_sweep(url, tmp_path) -> None:
    out = tmp_path / "a.json"
    measuring = bench(url, "--clients", "1,4", "--rate", "40", "--requests", "12", "-o", str(out))
    _, said = measuring.communicate(timeout=120)
    assert measuring.returncode == 0, said
    result = json.loads(out.read_text())
    assert result["target"]["model"] == "shapes"
    for run in result["runs"]:
        summary, requests = run["summary"], run["requests"]
        assert (summary["completed"], summary["failed"], summary["tokens"]) == (12, 0, 12 * TOKENS)
        assert {one["tokens"] for one in requests} == {TOKENS}
        assert len({one["prompt_tokens"] for one in requests}) == 1
        for one in requests:
            consistent(one)
        # The summary is what the requests say.
        length = max(one["ended"] for one in requests)
        assert summary["seconds"] == pytest.approx(length, rel=0.01)
        assert summary["tokens_per_second"] == pytest.approx(12 * TOKENS / length, rel=0.01)
        whole = [one["ended"] - one["due"] for one in requests]
        assert min(whole) <= summary["whole"]["p50"] <= max(whole)
        steps = [(one["last"] - one["first"]) / (TOKENS - 1) for one in requests]
        assert min(steps) <= summary["per_token"]["p50"] <= max(steps)
    alone, four = result["runs"][:2]
    assert at_most(alone, 1)
    assert at_most(four, BATCH)


def at_most(run: dict, count: int) -> bool:
    """Whether no more than ``count`` requests were under way at once, and at some moment that many."""
    moments = sorted(
        [(one["sent"], 1) for one in run["requests"]] + [(one["ended"], -1) for one in run["requests"]],
        key=lambda pair: (pair[0], pair[1]),
    )
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most == count


def until_second_run(measuring: subprocess.Popen[str]) -> None:
    """Wait until the first run is complete and the second one has begun."""
    assert measuring.stderr is not None
    for line in measuring.stderr:
        if line.startswith("measuring 2 at once"):
            return
    pytest.fail("there was no second run")


def test_no_more_tokens_are_asked_for_than_a_server_of_ours_gives(url, tmp_path) -> None:
    out = tmp_path / "a.json"
    command = [
        "bench",
        "--url",
        url,
        "--clients",
        "1",
        "--requests",
        "3",
        "--image-size",
        "32",
        "-o",
        str(out),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mmbuild", *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    most = get(f"{url}/v1/models").json()["data"][0]["max_output_len"]
    assert result["workload"]["max_tokens"] == most < 64
    assert result["runs"][0]["summary"]["completed"] == 3


def answered(url: str) -> float:
    """How many requests a server has answered rightly."""
    found = re.search(r'^mmbuild_requests_total\{status="200"\} (\S+)$', get(f"{url}/metrics").text, re.M)
    assert found
    return float(found[1])


def ended_early(measuring: subprocess.Popen[str], out, why: str) -> dict:
    """The result of a sweep that ended early."""
    printed, said = measuring.communicate(timeout=120)
    assert measuring.returncode == 1, said
    assert "Traceback" not in said
    assert f"error: the sweep ended early, because {why}" in said
    assert "[MM866]" in said
    assert "1 at once" in printed
    assert "not measured, the sweep ended early" in printed
    return json.loads(out.read_text())


def test_an_interrupted_sweep_keeps_its_finished_runs(url, tmp_path) -> None:
    out, html = tmp_path / "a.json", tmp_path / "a.html"
    words = ("--clients", "1,2", "--rate", "1", "--requests", "100", "-o", str(out), "--html", str(html))
    measuring = bench(url, *words)
    until_second_run(measuring)
    measuring.send_signal(signal.SIGINT)
    result = ended_early(measuring, out, "it was interrupted; not measured: 2 at once, 1 per second")
    (run,) = result["runs"]
    assert run["summary"]["completed"] == 100
    assert [load["value"] for load in result["missing"]] == [2, 1]
    assert "2 at once, 1 per second: not measured" in html.read_text()


def test_a_server_that_dies_in_a_sweep_leaves_the_finished_runs(tmp_path) -> None:
    out = tmp_path / "a.json"
    with serving(demo_directory()) as (process, url, _):
        ready(url)
        measuring = bench(url, "--clients", "1,2,4", "--requests", "100", "-o", str(out))
        until_second_run(measuring)
        known = answered(url)
        while answered(url) < known + 4:
            threading.Event().wait(0.01)
        process.kill()
        result = ended_early(measuring, out, "nothing answers at the server's address any more")
    first, second = result["runs"]
    assert first["summary"]["completed"] == 100
    # Nothing is left out: what was answered, and what failed.
    assert 0 < second["summary"]["completed"] < 100
    assert second["summary"]["completed"] + second["summary"]["failed"] == len(second["requests"]) == 100
    kinds = {failure["kind"] for failure in second["summary"]["failures"]}
    assert "connect" in kinds
    assert kinds <= {"connect", "broken"}
    assert [load["value"] for load in result["missing"]] == [4]
