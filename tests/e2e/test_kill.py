"""kill -9 of the whole tool, at any moment: the next apply is right, and the store is clean."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.verify import check_store
from support import TESTS
from support.steps import apply_chains

pytestmark = pytest.mark.slow

MOMENTS = 20
FAULTS = (
    "publish-objects",
    "publish-tree",
    "publish-manifest",
    "journal-before",
    "journal-torn",
    "journal-after",
)
PROGRAM = apply_chains.__file__


def start(root, text="a", count=None, fault=None):
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS),
        "MMBUILD_TEST_COUNT": str(count or root / "count"),
    }
    if fault:
        environment["MMBUILD_FAULT"] = fault
    return subprocess.Popen(
        [sys.executable, PROGRAM, str(root / "store"), str(root / "build"), text],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.split()


def assert_right(root, text="a"):
    for recipe, content in apply_chains.expected(text).items():
        assert (root / "build" / recipe / "text").read_text() == content
    assert sorted(path.name for path in (root / "build").iterdir()) == sorted(apply_chains.expected(text))
    store = open_store(root / "store")
    assert check_store(store).faults == ()
    assert list(store.staging.iterdir()) == []
    assert check_store(store).leftovers == load_cache(store).torn


@pytest.fixture(scope="module")
def duration(tmp_path_factory):
    """Wall time of one undisturbed apply; the moments of the kills are spread over it."""
    root = tmp_path_factory.mktemp("measure")
    begin = time.monotonic()
    finish(start(root))
    return time.monotonic() - begin


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_at_any_moment_the_next_apply_is_right(tmp_path, duration, moment):
    process = start(tmp_path)
    try:
        process.wait(duration * (moment + 0.5) / MOMENTS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    done = set(load_cache(open_store(tmp_path / "store")).last_definition)
    ran = finish(start(tmp_path))
    assert not done & set(ran), "what was journaled ran again"
    assert_right(tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_inside_publishing_or_journaling_the_next_apply_is_right(tmp_path, fault):
    process = start(tmp_path, fault=fault)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "SIGKILL" in err
    finish(start(tmp_path))
    assert_right(tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_while_a_change_is_built_the_next_apply_is_right(tmp_path, fault):
    finish(start(tmp_path, "a"))
    start(tmp_path, "b", fault=fault).communicate(timeout=60)
    assert (tmp_path / "build" / "r0" / "text").read_text() == apply_chains.expected("a")["r0"]
    finish(start(tmp_path, "b"))
    assert_right(tmp_path, "b")


def test_the_workers_of_a_killed_tool_end(tmp_path):
    process = start(tmp_path)
    for line in process.stderr:
        if line.startswith("started"):
            break
    children = [int(c) for c in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert children
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("tools", [2, 3])
def test_applies_at_once_build_each_action_once(tmp_path, tools):
    count = tmp_path / "count"
    processes = [start(tmp_path, count=count) for _ in range(tools)]
    ran = [label for process in processes for label in finish(process)]
    assert len(ran) == len(set(ran)) == 1 + 3 * apply_chains.RECIPES
    assert sorted(count.read_text().split()) == sorted(ran)
    assert_right(tmp_path)
