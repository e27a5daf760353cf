"""Locks: waiting names the holder, short waits give up, and lock files are removed."""

import multiprocessing
import os
import signal
import time

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store import locks
from mmbuild.core.store import locks as wait_notices
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.locks import Patience, exclusive_lock, holder_text, shared_lock, try_lock, wait_lock
from support.waiting import wait_for


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def hold(path, shared):
    try_lock(path, shared=shared)
    signal.pause()


@pytest.fixture
def held():
    """Start a process that holds a lock; returns its number."""
    started = []

    def start(path, *, shared=False):
        worker = multiprocessing.get_context("fork").Process(target=hold, args=(path, shared))
        worker.start()
        started.append(worker)
        wait_for(lambda: path.exists() and holder_text(path).startswith("process"))
        return worker.pid

    yield start
    for worker in started:
        worker.kill()
        worker.join(60)


@pytest.fixture
def soon(monkeypatch):
    """Everything that takes seconds takes hundredths of one."""
    monkeypatch.setattr(locks, "LIMIT_SECONDS", 0.3)
    monkeypatch.setattr(wait_notices, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(wait_notices, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(Patience, "__init__", patient)


def patient(self):
    self.begin, self._due = time.monotonic(), wait_notices.FIRST_SECONDS


def test_the_holder_of_a_lock_is_named(store, held):
    assert holder_text(store.lock("x")) == "another process"
    assert holder_text(store.lock("x")) == "another process"
    pid = held(store.lock("x"))
    assert holder_text(store.lock("x")) == f"process {pid}"


def test_a_stopped_holder_is_named_as_such(store, held):
    pid = held(store.lock("x"))
    os.kill(pid, signal.SIGSTOP)
    text = wait_for(lambda: found if "stopped" in (found := holder_text(store.lock("x"))) else None)
    assert text == f"process {pid}, which is stopped (`kill -CONT {pid}` continues it)"


def test_a_holder_that_ended_and_left_something_running_is_named_as_such(store):
    """A descriptor that a child inherited holds the lock on."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        lock = try_lock(store.lock("x"))
        os.set_inheritable(lock.descriptor, True)
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    assert wait_for(lambda: "exited" in holder_text(store.lock("x")))
    os.waitpid(child, 0)
    assert "left a child running" in holder_text(store.lock("x"))
    os.close(writer)


@pytest.mark.usefixtures("soon")
def test_a_short_lock_gives_up_and_names_its_holder(store, held, capsys):
    pid = held(store.lock("x"))
    with pytest.raises(MmbuildError) as caught, wait_lock(store.lock("x"), "the lock of a test"):
        pytest.fail("somebody else has it")
    assert caught.value.code == "MM325"
    assert f"process {pid}" in caught.value.message
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert f"waiting for the lock of a test (`{store.lock('x')}`)" in lines[0]
    assert f"process {pid}" in lines[0]


def test_a_wait_that_ends_soon_is_not_mentioned(store, capsys):
    with wait_lock(store.lock("x")):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", ["closed", "full", "none"])
def test_a_wait_is_reported_on_whatever_standard_error_is(monkeypatch, stream):
    target = None if stream == "none" else os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    if stream == "closed":
        target.close()
    monkeypatch.setattr("sys.stderr", target)
    wait_notices.to_stderr("waiting")
    if stream == "full":
        with pytest.raises(OSError, match="space"):
            target.close()


def test_a_patience_is_due_once_for_each_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    patience, due = Patience(100.0), []
    for second in range(100):
        now[0] = 100.0 + second
        due += [second] if patience.due() else []
    assert due == [2, 32, 62, 92]


def test_gc_names_the_build_that_uses_the_store(store, held):
    pid = held(store.root / "in-use", shared=True)
    with pytest.raises(MmbuildError, match=f"a build is using .*process {pid}"), exclusive_lock(store):
        pytest.fail("both hold the store")


def test_a_build_names_the_gc_that_is_at_work(store, held):
    pid = held(store.root / "in-use")
    with pytest.raises(MmbuildError, match=f"gc.*process {pid}"), shared_lock(store):
        pytest.fail("both hold the store")


def test_the_file_of_a_lock_can_go_with_it(store):
    lock = try_lock(store.lock("x"))
    lock.remove()
    assert not store.lock("x").exists()
    again = try_lock(store.lock("x"))
    assert again is not None
    again.remove()


def test_who_opened_the_file_of_a_lock_before_it_went_does_not_share_it(store, monkeypatch):
    """Else two would hold what they think is the same lock."""
    first = try_lock(store.lock("x"))
    flock, others = locks.fcntl.flock, []

    def late(descriptor, kind):
        if not others:
            first.remove()
            others.append(None)
            others[0] = try_lock(store.lock("x"))
        return flock(descriptor, kind)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    assert try_lock(store.lock("x")) is None
    others[0].release()


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_a_lock_is_a_regular_file(store, tmp_path, kind):
    path = store.lock("x")
    if kind == "link":
        path.symlink_to(tmp_path / "victim")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(MmbuildError) as caught:
        try_lock(path)
    assert caught.value.code == "MM320"
    assert not (tmp_path / "victim").exists()


@pytest.mark.usefixtures("soon")
def test_a_wait_is_reported_to_the_registered_reporter(store, held, monkeypatch):
    heard = []
    monkeypatch.setattr(wait_notices, "_reporters", [])
    wait_notices.report_to(heard.append)
    held(store.lock("x"))
    with pytest.raises(MmbuildError), wait_lock(store.lock("x"), "the lock of a test"):
        pytest.fail("somebody else has it")
    assert "the lock of a test" in heard[0]
