"""The fuzzer finds what is wrong, and finds nothing wrong in twenty seconds with mmbuild."""

import os
import re
import subprocess
import sys

import pytest

import fuzz
from fuzz_world import TARGETS, Target
from mmbuild.base.errors import MmbuildError

WHOLE = b"recipe: 1\n"


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The processes are forked from this one after torch was imported."""
    assert os.environ["OMP_NUM_THREADS"] == "1"


def damaged(place):
    return (place / "mmbuild.yaml").read_bytes() != WHOLE


def refusing(place):
    damaged(place)
    raise MmbuildError("no", code="MM999")


def failing(place):
    if damaged(place):
        raise ZeroDivisionError


def endless(place):
    while damaged(place):
        pass


def greedy(place):
    if damaged(place):
        bytearray(2 << 30)


def crashing(place):
    if damaged(place):
        os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        (refusing, None),
        (failing, "ZeroDivisionError in test_fuzz.py"),
        (endless, "more than 0.5 s"),
        (greedy, "MemoryError"),
        (crashing, "ended with status"),
    ],
)
def test_only_coded_errors_are_not_failures(tmp_path, monkeypatch, probe, said):
    monkeypatch.setattr(fuzz, "make_world", lambda place: (place / "mmbuild.yaml").write_bytes(WHOLE))
    target = Target("a file", "mmbuild.yaml", "bytes", (probe,))
    slow = 0.5 if probe is endless else 30  # a busy machine may stop the others for a while
    count = fuzz.fuzz([target], 0.3, 1, tmp_path, slow)["a file"]
    if said is None:
        assert count.failures == []
        assert count.refused == count.inputs > 0
    else:
        assert len(count.failures) == 1
        assert said in count.failures[0]


@pytest.mark.slow
def test_twenty_seconds_of_damaged_files_find_no_failure():
    # A separate process: other tests may have left threads in this one, which a forked process does not have.
    done = subprocess.run(
        [sys.executable, fuzz.__file__, "--seconds", "20", "--slow", "30"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \| 0 \|$", done.stdout, flags=re.M)
    assert [name for name, *_ in rows] == [target.name for target in TARGETS]
    assert all(int(inputs) for _, inputs, _ in rows)
    assert sum(int(refused) for *_, refused in rows) > 100
