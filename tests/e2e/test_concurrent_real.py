"""The real steps under a kill and under two tools at once."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from mmbuild.backends.torch import Engine
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.verify import check_store
from support.engines.loaded import drawn

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPE, NAME = "recipes/demo/llava-int4.yaml", "llava-shapes-int4"
STEPS = {
    "download",
    "convert",
    "quantize",
    "build_llm",
    "build_visual",
    "convert_visual",
    "assemble",
    "measure",
    "verify",
}


def start(root, **variables):
    """An apply of the demo recipe; its events come on standard output."""
    places = ["--store", str(root / "store"), "--build-dir", str(root / "build")]
    return subprocess.Popen(
        [sys.executable, "-m", "mmbuild", "apply", RECIPE, *places, "--json"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def step(event):
    return event["label"].partition("/")[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def killed(root):
    """kill -9 in the middle of compiling the LLM, where no package is known from before; the steps that had finished
    before."""
    process = start(root, TORCHINDUCTOR_CACHE_DIR=str(root / "inductor"))
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and step(event) == "build_llm":
            break
    assert compiler_started(process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return {
        record.label.partition("/")[2] for record in load_cache(open_store(root / "store")).by_key.values()
    }


def compiler_started(process):
    """Wait for a C++ compiler among the processes below ``process``; False when it ended without one."""
    while not any("cc1plus" in name for name in descendants(process.pid)):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            return False
    return True


def descendants(pid):
    """Names of all processes below ``pid``."""
    names, pending = [], [str(pid)]
    while pending:
        current = Path("/proc", pending.pop())
        try:
            names.append((current / "comm").read_text().strip())
            for task in (current / "task").iterdir():  # a child belongs to the thread that started it
                pending += (task / "children").read_text().split()
        except OSError:
            continue
    return names


@pytest.fixture(scope="module")
def finished(root, killed):
    """Two applies at once after the kill: the events of each."""
    processes = [start(root) for _ in range(2)]
    lines = []
    for process in processes:
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        lines.append([json.loads(line) for line in out.splitlines()])
    assert killed <= STEPS
    return lines


def test_a_kill_during_the_compile_costs_the_compile_only(killed, finished):
    ran = {step(event) for events in finished for event in events if event["event"] == "finished"}
    assert "build_llm" not in killed
    assert ran == STEPS - killed


def test_two_applies_at_once_build_each_action_once(killed, finished):
    ran = Counter(step(event) for events in finished for event in events if event["event"] == "finished")
    assert set(ran) == STEPS - killed
    assert set(ran.values()) == {1}


def test_the_engine_is_right_afterwards(root, finished):
    assert finished
    engine = Engine.load(root / "build" / NAME)
    for picture, questions in drawn(99, 3):
        (answer,) = engine.generate([picture], [questions[-1].text])
        assert answer.text == questions[-1].answer
    report = json.loads((root / "build" / NAME / "verify" / "report.json").read_text())
    assert report["summary"]["identical"] == report["summary"]["questions"]


def test_the_store_is_clean_afterwards(root, finished):
    assert finished
    store = open_store(root / "store")
    assert check_store(store).faults == ()
    assert list(store.staging.iterdir()) == []
