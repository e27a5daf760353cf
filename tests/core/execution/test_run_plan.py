"""The local executor: what runs, in which environment, and what failures report and leave behind."""

import os
import signal
import threading
from pathlib import Path

import pytest

from mmbuild.api import BuildError
from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import EventKind
from mmbuild.core.execution.options import ApplyOptions
from mmbuild.core.execution.resources import Capacity
from mmbuild.core.graph.action import RecipeGraph, Resources
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.locks import try_lock
from mmbuild.core.store.verify import check_store
from support.projects.workspace import Workspace
from support.steps.trivial import action, chain
from support.waiting import gone, wait_for


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path, cold=True)


def alone(step, **params):
    only = action(step, f"r/{step}", **params)
    return RecipeGraph("r", (only,), only.definition_key)


def beside(*actions):
    """Actions that do not depend on each other, and an engine of their results."""
    engine = action("write", "r/engine", {str(i): a for i, a in enumerate(actions)}, text="e")
    return RecipeGraph("r", (*actions, engine), engine.definition_key)


def test_an_engine_is_laid_out_with_its_manifest(workspace):
    import json

    workspace.apply(chain("r"))
    manifest = json.loads((workspace.build / "r" / "manifest.json").read_text())
    assert [a["label"] for a in manifest["actions"]] == ["r/0", "r/1", "r/2"]
    assert manifest["actions"][1]["inputs"] == {"text": manifest["actions"][0]["artifact"]}
    assert manifest["host"]["cores"] >= 1
    assert all(a["seconds"] >= 0 and a["peak_memory"] > 0 for a in manifest["actions"])


def test_a_worker_sees_a_listed_environment_and_a_neutral_directory(workspace, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "x")
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:1")
    workspace.apply(alone("environment", resources=Resources(cores=2)))
    seen = dict(
        line.split("=", 1)
        for line in (workspace.build / "r" / "environment").read_text().splitlines()
        if "=" in line
    )
    assert "SECRET_OF_THE_SHELL" not in seen
    assert seen["HF_ENDPOINT"] == "http://localhost:1"
    assert seen["OMP_NUM_THREADS"] == seen["MMBUILD_CORES"] == "2"
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert (workspace.build / "r" / "where").read_text() == "work"
    assert (workspace.build / "r" / "session").read_text() == "True"


def test_peak_memory_is_recorded(workspace):
    workspace.apply(alone("allocate", bytes=200_000_000))
    (record,) = load_cache(workspace.store).by_key.values()
    assert 200_000_000 < record.memory < 300_000_000


FAILURES = {
    "told": ("MM999", ["the weights do not fit", "use other weights"]),
    "bug": ("MM310", ["step `fail`", "ZeroDivisionError: division by nothing"]),
    "killed": ("MM311", ["was killed (SIGKILL)", "memory ran out"]),
    "crash": ("MM311", ["died of SIGSEGV"]),
    "exit": ("MM310", ["SystemExit: 7"]),
    "dangling": ("MM306", ["/nowhere/at/all", "does not exist"]),
    "fifo": ("MM306", ["neither a file nor a directory"]),
    "full": ("MM302", ["no space left"]),
    "nothing": ("MM306", ["wrote no output"]),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failing_step_is_reported_and_the_store_stays_good(workspace, how):
    code, words = FAILURES[how]
    (failed,) = workspace.apply(alone("fail", how=how)).failed
    assert failed.code == code
    for word in words:
        assert word in f"{failed.message} {failed.hint}"
    assert "Traceback" not in failed.message
    assert Path(failed.log).exists()
    assert not (workspace.build / "r").exists()
    assert check_store(workspace.store).faults == ()
    assert list(workspace.store.staging.iterdir()) == []
    assert workspace.apply(chain("r")).ok


def test_a_failure_carries_its_causes(workspace):
    (failed,) = workspace.apply(alone("fail", how="told")).failed
    assert failed.causes == ("ValueError: the number is odd",)


def test_a_killed_worker_is_reported_with_the_end_of_its_log(workspace):
    (failed,) = workspace.apply(alone("fail", how="killed")).failed
    assert "about to fail" in "\n".join(failed.tail)


def test_a_bug_in_a_step_leaves_its_traceback_in_the_log(workspace):
    (failed,) = workspace.apply(alone("fail", how="bug")).failed
    assert "ZeroDivisionError" in Path(failed.log).read_text()
    assert "Traceback" in failed.traceback


def test_a_step_that_changes_its_input_is_caught_by_verify_and_repaired(workspace):
    first = action("write", "r/first", text="a")
    bad = action("damage", "r/damage", {"x": first})
    result = workspace.apply(RecipeGraph("r", (first, bad), bad.definition_key))
    assert [f.code for f in result.failed] == ["MM307"]
    assert check_store(workspace.store).faults != ()
    assert workspace.apply(beside(first)).ok
    assert workspace.text("r") == "e+a"


def test_after_a_failure_nothing_new_starts(workspace):
    bad = action("fail", "r/bad", how="bug", resources=Resources(seconds=100))
    good = action("write", "r/good", text="x")
    result = workspace.apply(beside(bad, good), capacity=Capacity(1, 1 << 50, (), 1))
    assert result.ran == ()
    assert [f.label for f in result.failed] == ["r/bad"]


def test_keep_going_runs_what_does_not_depend_on_the_failure(workspace):
    bad = action("fail", "r/bad", how="bug", resources=Resources(seconds=100))
    good = action("write", "r/good", text="x")
    result = workspace.apply(beside(bad, good), capacity=Capacity(1, 1 << 50, (), 1), keep_going=True)
    assert result.ran == ("r/good",)
    assert [f.label for f in result.failed] == ["r/bad"]


def test_what_finished_before_a_failure_is_kept(workspace):
    first = action("write", "r/first", text="x")
    bad = action("fail", "r/bad", {"x": first}, how="bug")
    graph = RecipeGraph("r", (first, bad), bad.definition_key)
    assert workspace.apply(graph).ran == ("r/first",)
    assert workspace.verdicts(graph) == {"r/first": "up to date", "r/bad": "run"}


def test_independent_actions_run_at_once_and_jobs_limits_them(workspace):
    sleepers = [action("sleepy", f"r/s{i}", seconds=0.3, text=str(i)) for i in range(2)]

    def overlap(jobs, tag):
        graph = beside(*(action("sleepy", f"r/{tag}{i}", seconds=0.3, text=f"{tag}{i}") for i in range(2)))
        workspace.events.clear()
        workspace.apply(graph, capacity=Capacity(2, 1 << 50, (), jobs))
        kinds = [e.kind for e in workspace.events if e.kind in (EventKind.STARTED, EventKind.FINISHED)]
        return kinds[:2] == [EventKind.STARTED, EventKind.STARTED]

    assert len(sleepers) == 2
    assert overlap(2, "x")
    assert not overlap(1, "y")


def test_memory_estimates_keep_large_actions_apart(workspace):
    large = [
        action("sleepy", f"r/{i}", seconds=0.1, text=str(i), resources=Resources(memory=60)) for i in range(2)
    ]
    workspace.apply(beside(*large), capacity=Capacity(4, 100, (), 4))
    kinds = [e.kind for e in workspace.events if e.kind in (EventKind.STARTED, EventKind.FINISHED)]
    assert kinds[:3] == [EventKind.STARTED, EventKind.FINISHED, EventKind.STARTED]


def test_the_longest_path_starts_first(workspace):
    short = action("write", "r/short", text="s", resources=Resources(seconds=1))
    long = action("write", "r/long", text="l", resources=Resources(seconds=50))
    workspace.apply(beside(short, long), capacity=Capacity(1, 1 << 50, (), 1))
    started = [e.label for e in workspace.events if e.kind is EventKind.STARTED]
    assert started == ["r/long", "r/short", "r/engine"]


@pytest.mark.parametrize(
    ("resources", "code"),
    [(Resources(memory=101), "MM312"), (Resources(disk=1 << 60), "MM313"), (Resources(gpus=1), "MM314")],
)
def test_what_cannot_fit_is_refused_before_anything_runs(workspace, resources, code):
    first = action("write", "r/first", text="x")
    large = action("write", "r/large", {"x": first}, text="l", resources=resources)
    graph = RecipeGraph("r", (first, large), large.definition_key)
    with pytest.raises(MmbuildError) as caught:
        workspace.apply(graph, capacity=Capacity(2, 100, (), 2))
    assert caught.value.code == code
    assert load_cache(workspace.store).by_key == {}
    if code != "MM314":
        assert workspace.apply(graph, capacity=Capacity(2, 100, (), 2), ignore_estimates=True).ok


def test_gpus_are_granted_by_id_and_at_once_only_as_many_as_there_are(workspace, monkeypatch, tmp_path):
    monkeypatch.setattr("mmbuild.core.execution.gpu_queue.DIRECTORY", tmp_path / "gpus")
    users = [action("environment", f"r/{i}", n=i, resources=Resources(gpus=2)) for i in range(2)]
    workspace.apply(beside(*users), capacity=Capacity(4, 1 << 50, ("GPU-a", "GPU-b", "GPU-c"), 4))
    text = (workspace.store.tree(workspace.digest("r/0")) / "environment").read_text()
    assert "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b\n" in text
    kinds = [e.kind for e in workspace.events if e.kind in (EventKind.STARTED, EventKind.FINISHED)]
    assert kinds == [EventKind.STARTED, EventKind.FINISHED] * 3
    assert not list((tmp_path / "gpus").glob("*.waiting/*"))


def test_actions_that_will_not_start_give_up_their_place_for_a_gpu(workspace, monkeypatch, tmp_path):
    monkeypatch.setattr("mmbuild.core.execution.gpu_queue.DIRECTORY", tmp_path / "gpus")
    fails = action("fail", "r/0", resources=Resources(gpus=1, seconds=9))
    waits = action("environment", "r/1", resources=Resources(gpus=1))
    assert not workspace.apply(beside(fails, waits), capacity=Capacity(4, 1 << 50, ("GPU-a",), 4)).ok
    assert not list((tmp_path / "gpus").glob("*.waiting/*"))
    assert (tmp_path / "gpus" / "GPU-a.waiting").is_dir()  # it did wait


def test_a_directory_that_mmbuild_did_not_make_is_not_replaced(workspace):
    (workspace.build / "r").mkdir(parents=True)
    (workspace.build / "r" / "thesis.txt").write_text("years of work")
    with pytest.raises(MmbuildError, match="was not created by mmbuild") as caught:
        workspace.apply(chain("r"))
    assert caught.value.code == "MM315"
    assert (workspace.build / "r" / "thesis.txt").read_text() == "years of work"


def test_user_files_next_to_an_engine_survive_its_replacement(workspace):
    workspace.apply(chain("r", "a"))
    (workspace.build / "r" / "answers.json").write_text("mine")
    workspace.apply(chain("r", "b"))
    assert (workspace.build / "r" / "answers.json").read_text() == "mine"
    assert workspace.text("r") == "b2+b1+b"
    assert [p.name for p in workspace.build.iterdir()] == ["r"]


def test_a_process_that_a_step_left_behind_is_ended(workspace, tmp_path):
    workspace.apply(alone("grandchild", file=str(tmp_path / "pid"), seconds=0))
    assert wait_for(lambda: gone(int((tmp_path / "pid").read_text())))


def test_an_interrupt_ends_the_workers_and_keeps_what_is_done(workspace, tmp_path):
    first = action("write", "r/first", text="x")
    slow = action("grandchild", "r/slow", {"x": first}, file=str(tmp_path / "pid"), seconds=600)
    graph = RecipeGraph("r", (first, slow), slow.definition_key)

    def interrupt(event):
        if event.kind is EventKind.STARTED and event.label == "r/slow":
            threading.Thread(target=when_written, args=(tmp_path / "pid",)).start()

    def when_written(path):
        wait_for(lambda: path.exists() and path.read_text())
        os.kill(os.getpid(), signal.SIGINT)

    workspace.events = type("Sink", (), {"append": staticmethod(interrupt)})()
    with pytest.raises(KeyboardInterrupt):
        workspace.apply(graph)
    assert wait_for(lambda: gone(int((tmp_path / "pid").read_text())))
    assert workspace.verdicts(graph)["r/first"] == "up to date"
    assert list(workspace.store.staging.iterdir()) == []
    assert check_store(workspace.store).faults == ()


def test_an_action_that_another_process_holds_is_waited_for(workspace):
    """The other process is this test: it holds the lock of the action until mmbuild says that it waits."""
    graph = alone("write", text="x")
    from mmbuild.core.graph.keys import action_key

    held = try_lock(workspace.store.lock(action_key(graph.actions[0], {})))
    seen = []

    def sink(event):
        seen.append(event.kind)
        if event.kind is EventKind.WAITING:
            held.release()

    workspace.events = type("Sink", (), {"append": staticmethod(sink)})()
    assert workspace.apply(graph).ok
    assert seen.index(EventKind.WAITING) < seen.index(EventKind.STARTED)


def test_the_api_raises_what_failed(workspace, monkeypatch):
    import mmbuild

    monkeypatch.setenv("MMBUILD_STEPS", "support.steps.trivial:TABLE")
    with pytest.raises(BuildError, match="the weights do not fit") as caught:
        mmbuild.apply(workspace.plan(alone("fail", how="told")))
    assert caught.value.code == "MM999"
    assert mmbuild.apply(workspace.plan(chain("r"))).ok


def test_a_step_without_a_body_is_refused_before_anything_runs(workspace):
    unknown = action("write", "r/x", text="1")
    graph = RecipeGraph("r", (unknown,), unknown.definition_key)
    from mmbuild.core.execution.options import Options
    from mmbuild.core.execution.run_plan import run_plan

    with pytest.raises(MmbuildError, match="which this mmbuild does not have"):
        run_plan(
            workspace.plan(graph),
            specs={},
            options=Options(Capacity(1, 1, (), 1), ApplyOptions(ignore_estimates=True)),
            sink=print,
        )
