"""The fork server: a worker is forked ahead of the job that it will run."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmbuild.core.execution import forkserver
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


def test_a_job_waits_until_what_it_needs_was_imported_once_for_all(store, tmp_path):
    """Its worker would import it too, and so would each of several."""
    (tmp_path / "staging").mkdir()
    (tmp_path / "needed_by_some.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from support.steps.trivial import write as run\n"
        "with Path(__file__).with_suffix('.log').open('a') as log:\n"
        "    print(os.getpid(), file=log)\n"
    )
    hold = os.open(tmp_path, os.O_RDONLY)
    preload, path = ["colorsys", "needed_by_some"], [str(tmp_path), *sys.path]
    with start_workers(tmp_path / "staging", preload, hold, path=path) as started:
        for number in range(3):
            asked = job(store, f"{number}-job", text=str(number))
            started.start(replace(asked, entry="needed_by_some:run", preload=("needed_by_some",)))
        lines = []
        wait_for(lambda: sum(m["event"] == "exit" for m in received(started, lines)) == 3)
        imported = (tmp_path / "needed_by_some.log").read_text().split()
        assert imported == [str(started.process.pid)]
    os.close(hold)


def test_what_the_first_waiting_job_needs_is_imported_first(monkeypatch):
    imported = []
    monkeypatch.setattr(forkserver, "_import_all", imported.extend)
    preload, waiting = ["a", "b", "c"], [b'1-job\t["c", "b"]\t"/"\t{}', b'2-job\t["a"]\t"/"\t{}']
    while preload:
        forkserver._import_next(preload, waiting)
        waiting = [line for line in waiting if not forkserver._needed(line).isdisjoint(preload)]
    assert imported == ["b", "c", "a"]


def test_a_module_that_is_not_there_holds_up_nothing(store, tmp_path):
    (tmp_path / "staging").mkdir()
    hold = os.open(tmp_path, os.O_RDONLY)
    with start_workers(tmp_path / "staging", ["no.such.module"], hold) as started:
        started.start(replace(job(store), preload=("no.such.module", "nor.this")))
        assert messages(started, "exit")[-1]["status"] == 0
    os.close(hold)
