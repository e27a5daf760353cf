"""The fork server: a worker is forked ahead of the job that it will run."""

import json
import os
import signal
from pathlib import Path

import pytest

from mmbuild.core.execution.job import WorkerJob
from mmbuild.core.execution.worker_pool import start_workers
from mmbuild.core.graph.keys import action_key, body_key
from mmbuild.core.store.layout import open_store
from support.steps.trivial import TABLE, action
from support.waiting import gone, wait_for


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def workers(tmp_path):
    (tmp_path / "staging").mkdir()
    hold = os.open(tmp_path, os.O_RDONLY)
    with start_workers(tmp_path / "staging", [], hold) as started:
        yield started
    os.close(hold)


def children(workers):
    process = workers.process.pid
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def job(store, name="1-job", text="a"):
    written = action("write", "r/write", text=text)
    key = action_key(written, {})
    return WorkerJob(
        name=name,
        label=written.label,
        step=written.step,
        entry=TABLE["write"].entry,
        key=key,
        definition=written.definition_key,
        body=body_key(written),
        version=written.version,
        params=written.params,
        target={},
        inputs={},
        sources={},
        locators={},
        cores=1,
        gpus=(),
        store=str(store.root),
        log=str(store.log(key)),
    )


def messages(workers, event):
    """The messages until one is ``event``."""
    found = []
    wait_for(lambda: [m for m in received(workers, found) if m["event"] == event])
    return found


def received(workers, found):
    found += workers.messages(0.05)
    return found


def test_a_worker_waits_before_there_is_a_job_and_runs_the_first(store, workers):
    (spare,) = wait_for(lambda: children(workers))
    workers.start(job(store))
    reported = messages(workers, "exit")
    assert [m["event"] for m in reported] == ["done", "exit"]
    assert reported[-1]["status"] == 0
    assert gone(spare)
    assert wait_for(lambda: children(workers)) != [spare]


def test_jobs_that_arrive_together_each_have_a_process(store, workers):
    for number in range(5):
        workers.start(job(store, f"{number}-job", text=str(number)))
    lines = []
    wait_for(lambda: sum(m["event"] == "exit" for m in received(workers, lines)) == 5)
    assert {m["job"] for m in lines if m["event"] == "done"} == {f"{number}-job" for number in range(5)}


def test_a_killed_waiting_worker_is_replaced(store, workers):
    (spare,) = wait_for(lambda: children(workers))
    os.kill(spare, signal.SIGKILL)
    wait_for(lambda: children(workers) not in ([], [spare]))
    workers.start(job(store))
    assert messages(workers, "exit")[-1]["status"] == 0


def test_a_waiting_worker_that_is_killed_with_its_job_is_reported_as_any_other(store, workers):
    (spare,) = wait_for(lambda: children(workers))
    os.kill(spare, signal.SIGSTOP)
    workers.start(job(store))
    wait_for(lambda: len(children(workers)) > 1)  # it has its job, and the next one waits
    os.kill(spare, signal.SIGKILL)
    assert messages(workers, "exit")[-1] == {"job": "1-job", "event": "exit", "status": -signal.SIGKILL}


def test_no_waiting_worker_outlives_the_server(workers):
    (spare,) = wait_for(lambda: children(workers))
    os.kill(workers.process.pid, signal.SIGKILL)
    wait_for(lambda: gone(spare))


def test_a_job_of_any_size_reaches_its_worker(store, workers):
    text = "x" * (1 << 20)
    workers.start(job(store, text=text))
    done = messages(workers, "exit")[0]
    (path,) = store.tree(done["digest"]).iterdir()
    assert text in path.read_text()
    assert json.loads(store.journal.read_text().splitlines()[-1])["label"] == "r/write"
