"""What changes while a build runs: sources, keys, locks, logs. Nothing wrong is published under a right key."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import Event, EventKind
from mmbuild.core.execution.job import Failure, WorkerJob, read_failure, write_failure
from mmbuild.core.execution.progress import PlainLines, lenient
from mmbuild.core.execution.publish_check import confirm, seen_sources
from mmbuild.core.execution.run_plan import run_plan
from mmbuild.core.execution.worker import _redirect_streams
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.keys import action_key, is_sound, job_key
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.hashing import hash_file
from mmbuild.core.store.locks import try_lock
from mmbuild.core.store.verify import check_store
from mmbuild.models.sources.resolve import tree_digest
from support.projects.workspace import Workspace
from support.steps.trivial import action, chain
from support.waiting import wait_for

EXAMPLE = Path(__file__).parents[3] / "examples" / "models" / "llava-shapes"


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "weights"
    path.write_text("as planned")
    return path


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "other")
    return tmp_path / "pipe"


def referring(source):
    """A recipe that refers to a file of the user, and whose next step takes as long as the test needs."""
    sources, locators = {"file": hash_file(source)}, {"file": str(source)}
    return action("refer", "r/refer", sources=sources, locators=locators)


def changed(path, how):
    """Change `path` so that its size stays, and in the end its time too."""
    times = path.stat()
    if how == "gone":
        path.unlink()
    elif how == "and changed back":
        text = path.read_text()
        path.write_text("other text")
        path.write_text(text)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif how == "replaced":
        path.with_name("new").write_text("other text")
        path.with_name("new").replace(path)
    else:
        path.write_text("other text")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = ("in place", "replaced", "gone", "pipe")


@pytest.mark.parametrize("how", CHANGES)
def test_a_source_that_changed_before_its_action_runs_is_not_published(workspace, source, how):
    only = referring(source)
    graph = RecipeGraph("r", (only,), only.definition_key)
    plan = workspace.plan(graph)
    changed(source, how)
    (failed,) = run(workspace, plan).failed
    if how in ("in place", "replaced"):
        assert failed.code == "MM319"
        assert str(source) in failed.message
        assert "apply again" in failed.hint
    assert load_cache(workspace.store).by_key == {}
    assert list((workspace.store.root / "manifests").iterdir()) == []
    assert not (workspace.build / "r").exists()


def run(workspace, plan):
    from mmbuild.core.execution.options import Options
    from mmbuild.core.execution.resources import Capacity
    from support.steps.trivial import TABLE

    return run_plan(
        plan, specs=TABLE, options=Options(Capacity(2, 1 << 50, (), 2)), sink=workspace.events.append
    )


@pytest.mark.parametrize("how", [*CHANGES, "and changed back"])
def test_a_source_that_changes_while_a_step_reads_it_is_not_published(workspace, source, pipe, tmp_path, how):
    """The step that reads it is not the one that refers to it: it sees the file through its input."""
    first = referring(source)
    slow = action("held", "r/slow", {"x": first}, pipe=str(pipe), file=str(tmp_path / "pids"))
    graph = RecipeGraph("r", (first, slow), slow.definition_key)

    def meanwhile():
        wait_for((tmp_path / "pids").exists)
        changed(source, how)
        pipe.write_text("go on")

    helper = threading.Thread(target=meanwhile)
    helper.start()
    (failed,) = workspace.apply(graph).failed
    helper.join(60)
    assert failed.code == "MM319"
    assert str(source) in failed.message
    assert {record.label for record in load_cache(workspace.store).by_key.values()} == {"r/refer"}
    assert not (workspace.build / "r").exists()
    assert check_store(workspace.store).faults == ()


def test_a_changed_reference_is_not_laid_out(workspace, source):
    only = referring(source)
    graph = RecipeGraph("r", (only,), only.definition_key)
    workspace.apply(graph)
    (workspace.build / "r" / "text").unlink()
    changed(source, "in place")
    with pytest.raises(MmbuildError) as caught:
        workspace.apply(graph)
    assert caught.value.code == "MM319"


def job(workspace, **change):
    planned = action("write", "r/x", text="a")
    made = WorkerJob(
        name="1",
        label="r/x",
        step=planned.step,
        entry="",
        key=action_key(planned, {}),
        definition=planned.definition_key,
        body="",
        params=planned.params,
        target={},
        inputs={},
        sources={},
        locators={},
        cores=1,
        gpus=(),
        store=str(workspace.store.root),
        log="",
        version=planned.version,
    )
    return replace(made, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"name": "r/x", "text": "b"}},
        {"step": "copy"},
        {"version": "trivial-2"},
        {"target": {"sm": 90}},
        {"toolchain": {"torch": "1"}},
        {"inputs": {"x": "0" * 64}},
        {"sources": {"x": "0" * 64}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_result_is_not_published_under_the_key_of_something_else(workspace, change):
    confirm(workspace.store, job(workspace))
    with pytest.raises(MmbuildError) as caught:
        confirm(workspace.store, job(workspace, **change))
    assert caught.value.code == "MM326"


def test_a_model_directory_is_compared_as_it_was_planned(workspace, tmp_path):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(EXAMPLE, model)
    for kind in ("dummy", "path"):
        weights = kind == "path"
        if weights:
            (model / "model.safetensors").write_bytes(b"weights")
        given = job(
            workspace,
            params={"kind": kind, "directories": []},
            locators={"model": str(model)},
            sources={"model": tree_digest(model, hash_file, weights=weights)},
        )
        given = replace(given, key=job_key(given))
        confirm(workspace.store, given)
        (model / "config.json").write_text((model / "config.json").read_text() + "\n")
        with pytest.raises(MmbuildError) as caught:
            confirm(workspace.store, given)
        assert caught.value.code == "MM319"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_source_that_was_changed_and_changed_back_may_have_been_read(workspace, source, tmp_path, kind):
    import shutil

    place, file, digest = source, source, hash_file(source)
    if kind == "directory":
        place, file = tmp_path / "model", tmp_path / "model" / "config.json"
        shutil.copytree(EXAMPLE, place)
        digest = tree_digest(place, hash_file, weights=True)
    given = job(
        workspace,
        params={"kind": "path", "directories": []},
        locators={"x": str(place)},
        sources={"x": digest},
    )
    given = replace(given, key=job_key(given))
    before = seen_sources(given)
    confirm(workspace.store, given, before)
    changed(file, "and changed back")
    confirm(workspace.store, given)
    with pytest.raises(MmbuildError) as caught:
        confirm(workspace.store, given, before)
    assert caught.value.code == "MM319"
    assert str(file) in caught.value.message


@pytest.mark.parametrize(
    "change",
    [{"params": {"text": "b"}}, {"version": "trivial-2"}, {"step": "copy"}, {"definition_key": "0" * 64}],
    ids=lambda change: next(iter(change)),
)
def test_an_action_whose_key_is_not_that_of_its_content_does_not_run(workspace, change):
    good = chain("r", links=1)
    assert is_sound(good.actions[0])
    bad = replace(good.actions[0], **change)
    with pytest.raises(MmbuildError) as caught:
        workspace.apply(RecipeGraph("r", (bad,), bad.definition_key))
    assert caught.value.code in ("MM326",)
    assert load_cache(workspace.store).by_key == {}


def test_waiting_for_an_action_names_the_holder(workspace):
    graph = chain("r", links=1)
    held = try_lock(workspace.store.lock(action_key(graph.actions[0], {})))
    said = []

    def sink(event):
        if event.kind is EventKind.WAITING:
            said.append(event.data["why"])
            held.release()

    workspace.events = type("Sink", (), {"append": staticmethod(sink)})()
    assert workspace.apply(graph).ok
    assert said == [f"process {os.getpid()} is building it"]


def test_a_long_wait_is_reported_again(workspace, monkeypatch):
    from mmbuild.core.store import locks

    graph = chain("r", links=1)
    held = try_lock(workspace.store.lock(action_key(graph.actions[0], {})))
    said = []
    monkeypatch.setattr(locks.Patience, "due", lambda _: True)

    def sink(event):
        if event.kind is EventKind.WAITING:
            said.append(event.data["why"])
            if len(said) == 3:
                held.release()

    workspace.events = type("Sink", (), {"append": staticmethod(sink)})()
    assert workspace.apply(graph).ok
    assert said[2] == f"process {os.getpid()} is building it; waiting for 0 s"


def test_locks_of_finished_actions_go(workspace):
    workspace.apply(chain("r"), chain("s", text="b"))
    names = {path.name for path in (workspace.store.root / "locks").iterdir()}
    assert not names & set(load_cache(workspace.store).by_key)


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "full"])
def test_a_log_that_cannot_be_written_stops_no_action(workspace, tmp_path, kind):
    graph = RecipeGraph("r", (noisy := action("noisy", "r/noisy", text="x"),), noisy.definition_key)
    log = workspace.store.log(action_key(noisy, {}))
    if kind == "pipe":
        os.mkfifo(log)
    elif kind == "directory":
        log.mkdir()
    else:
        log.symlink_to("/dev/full" if kind == "full" else tmp_path / "victim")
    assert workspace.apply(graph).ok
    assert not (tmp_path / "victim").exists()


def test_a_full_disk_under_the_log_stops_no_action(tmp_path):
    """Runs in a separate process, because it takes over the streams."""
    import subprocess
    import sys

    program = (
        "import os, resource, signal, sys\n"
        "from pathlib import Path\n"
        "from mmbuild.core.execution.worker import _redirect_streams\n"
        f"_redirect_streams(Path({str(tmp_path / 'log')!r}))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "print('more than ten bytes', flush=True)\n"
        "print('and more', file=sys.stderr)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert (tmp_path / "log").read_text() == "more than "
    assert callable(_redirect_streams)


@pytest.mark.parametrize("stream", ["closed", "full", "none"])
def test_a_display_that_cannot_be_written_stops_no_build(workspace, monkeypatch, stream):
    target = None if stream == "none" else os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    if stream == "closed":
        target.close()
    monkeypatch.setattr("sys.stderr", target)
    lenient(PlainLines(workspace.plan(chain("r"))))(Event(EventKind.LAID_OUT, "r", {"directory": "/b/r"}))


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"message": 7}', '{"causes": 7}', "[" * 100_000])
def test_a_failure_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "failure.json").write_text(text)
    assert read_failure(tmp_path) is None


def test_a_failure_comes_back(tmp_path):
    failure = Failure("m", "MM310", "h", ("c",), "t")
    write_failure(tmp_path, failure)
    assert read_failure(tmp_path) == failure


def test_what_another_apply_has_built_since_the_plan_is_reused_and_says_so(workspace):
    planned = workspace.plan(chain("r"))
    workspace.apply(chain("r"))
    workspace.events.clear()
    assert run(workspace, planned).ok
    reused = [event for event in workspace.events if event.kind is EventKind.REUSED]
    assert [event.data["why"] for event in reused] == ["it has been built since the plan was made"] * 3


def test_what_is_cut_off_early_says_that_its_inputs_are_identical(workspace):
    workspace.apply(constant_first("a"))
    workspace.events.clear()
    assert workspace.apply(constant_first("b")).ok
    (reused,) = [event for event in workspace.events if event.kind is EventKind.REUSED]
    assert (reused.label, reused.data["why"]) == ("r/second", "its rebuilt inputs are identical")


def constant_first(text):
    """A recipe whose first action writes the same for every ``text``."""
    first = action("constant", "r/first", text=text)
    second = action("write", "r/second", {"text": first}, text="x")
    return RecipeGraph("r", (first, second), second.definition_key)
