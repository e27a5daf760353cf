"""Whatever is wrong with the shared store, the build ends as it would without it, and the next one succeeds."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import EventKind
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.plan import Verdict
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.atomic_files import remove_tree
from mmbuild.core.store.gc import collect
from mmbuild.core.store.verify import check_store
from mmbuild.team.remote_cache import object_store as names
from mmbuild.team.remote_cache import pull as pulling
from mmbuild.team.remote_cache.push import push
from support import TESTS
from support.marks import slow_except
from support.projects.machines import Down, Hanging, Machine, Unreliable
from support.steps import apply_shared
from support.steps.trivial import action, chain


def files(tmp_path, kind):
    return sorted(path for path in (tmp_path / "shared" / "v1" / kind).rglob("*") if path.is_file())


def poison(path):
    path.chmod(0o644)
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def truncate(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_large(size=3_000_000):
    engine = action("large", "r/0", bytes=size)
    return RecipeGraph("r", (engine,), engine.definition_key)


@pytest.mark.parametrize("harm", [poison, truncate, Path.unlink])
@pytest.mark.parametrize("kind", ["objects", "manifests"])
def test_damaged_contents_are_reported_and_built_around_and_replaced(one, other, tmp_path, harm, kind):
    one.apply(chain("r"))
    for path in files(tmp_path, kind):
        harm(path)
    result = other.apply(chain("r"))
    assert result.ok
    assert result.ran == ("r/0", "r/1", "r/2")
    assert other.text("r") == "a2+a1+a"
    assert other.codes() == {"MM822"}
    assert check_store(other.store).faults == ()
    third = Machine(tmp_path / "third", url=one.url)
    assert third.apply(chain("r")).ran == (), "the other one mended the shared store"
    assert third.notices == []


@pytest.mark.parametrize("harm", [poison, truncate, lambda path: path.write_bytes(b"")])
def test_damaged_entries_are_reported_and_replaced(one, other, tmp_path, harm):
    one.apply(chain("r"))
    for path in files(tmp_path, "actions"):
        harm(path)
    assert other.apply(chain("r")).ran == ("r/0", "r/1", "r/2")
    assert other.codes() == {"MM822"}
    assert Machine(tmp_path / "third", url=one.url).apply(chain("r")).ran == ()


def test_an_entry_with_another_key_is_ignored(one, other, tmp_path):
    """Otherwise anyone with write access could give one action the result of another by copying a file."""
    one.apply(chain("r"), chain("evil", text="evil"))
    entries = {json.loads(path.read_bytes())["label"]: path for path in files(tmp_path, "actions")}
    entries["r/2"].write_bytes(entries["evil/2"].read_bytes())
    assert other.apply(chain("r")).ran == ("r/2",)
    assert other.text("r") == "a2+a1+a"


@pytest.mark.parametrize("seed", slow_except(range(6), 0, 1))
def test_with_thirty_percent_of_all_requests_failing_everything_comes_out_the_same(tmp_path, one, seed):
    one.broken = lambda place: Unreliable(place, 0.3, seed)
    assert one.apply(chain("r", links=6), chain("s", text="b", links=6)).ok
    other = Machine(tmp_path / "other", url=one.url, broken=lambda place: Unreliable(place, 0.3, seed + 100))
    assert other.apply(chain("r", links=6), chain("s", text="b", links=6)).ok
    for recipe in ("r", "s"):
        assert other.text(recipe) == one.text(recipe)
        assert other.digest(f"{recipe}/5") == one.digest(f"{recipe}/5")
    for machine in (one, other):
        assert check_store(machine.store).faults == ()
    third = Machine(tmp_path / "third", url=one.url)
    assert third.apply(chain("r", links=6)).ok
    assert "MM822" not in third.codes(), "nothing that was published is damaged"


def test_a_store_that_is_down_costs_one_warning(one):
    one.broken = Down
    begin = time.monotonic()
    assert one.apply(chain("r", links=6)).ran == tuple(f"r/{link}" for link in range(6))
    assert time.monotonic() - begin < 5
    assert [notice.code for notice in one.notices] == ["MM821"]
    assert "ConnectionRefusedError" in one.notices[0].message


def test_a_store_that_never_answers_costs_its_timeout(one):
    one.broken, one.settings = Hanging, {"timeout": 0.3}
    begin = time.monotonic()
    assert one.apply(chain("r", links=6)).ok
    assert time.monotonic() - begin < 5
    assert [notice.code for notice in one.notices] == ["MM821"]


def test_a_store_that_goes_down_in_the_run_costs_what_was_not_published_yet(one, other):
    one.apply(chain("r"))
    shared = other.shared()
    plan = other.plan(chain("r"), shared=shared)
    shared._place = Down(shared.place)
    assert plan.count(Verdict.PULL) == 1
    assert other.apply(chain("r"), shared=shared).ran == ("r/0", "r/1", "r/2")
    assert {"MM821"} == other.codes()


def test_a_pull_resumes_where_it_stopped(one, other, monkeypatch):
    monkeypatch.setattr(pulling, "_CHUNK", 1 << 20)
    one.apply(one_large())
    shared = other.shared()
    digest = one.digest("r/0")
    real, read = shared.place, []

    class Breaks:
        def __getattr__(self, name):
            return getattr(real, name)

        def read(self, name, start, end, *arrived):
            if name.startswith("objects/"):
                read.append(start)
                if start >= 2 << 20:
                    raise ConnectionResetError("broken")
            return real.read(name, start, end, *arrived)

    shared._place = Breaks()
    assert digest in pulling.pull(shared, [digest])
    (partial,) = pulling.partial_directory(other.store).iterdir()
    assert partial.stat().st_size == 2 << 20
    read.clear()
    assert other.apply(one_large()).ran == ()
    assert check_store(other.store).faults == ()
    assert list(pulling.partial_directory(other.store).iterdir()) == []


def test_only_the_missing_bytes_are_requested_again(one, other, monkeypatch):
    monkeypatch.setattr(pulling, "_CHUNK", 1 << 20)
    one.apply(one_large())
    shared = other.shared()
    digest = one.digest("r/0")
    (entry,) = shared.trees([digest])[digest].entries
    partial = pulling.partial_directory(other.store)
    partial.mkdir(parents=True)
    (partial / entry.digest).write_bytes((one.store.tree(digest) / "text").read_bytes()[: 2 << 20])
    starts = []
    real = shared.place

    class Watches:
        def __getattr__(self, name):
            return getattr(real, name)

        def read(self, name, start, end, *arrived):
            starts.append(start)
            return real.read(name, start, end, *arrived)

    shared._place = Watches()
    assert pulling.pull(shared, [digest]) == {}
    assert starts == [2 << 20]


def test_what_an_earlier_run_left_damaged_is_pulled_again(one, other):
    one.apply(one_large())
    shared = other.shared()
    digest = one.digest("r/0")
    (entry,) = shared.trees([digest])[digest].entries
    partial = pulling.partial_directory(other.store)
    partial.mkdir(parents=True)
    (partial / entry.digest).write_bytes(b"x" * 1_000_000)
    assert pulling.pull(shared, [digest]) == {}
    assert other.store.has(digest)
    assert check_store(other.store).faults == ()


@pytest.mark.slow
def test_the_apply_after_a_killed_pull_resumes(one, tmp_path):
    """kill -9 after a chunk, with the whole tool in a separate process."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
        "MMBUILD_REMOTE": one.url,
        "MMBUILD_PUSH": "always",
    }
    program = apply_shared.__file__

    def start(place, **more):
        words = [
            sys.executable,
            program,
            str(tmp_path / place / "store"),
            str(tmp_path / place / "build"),
            "a",
        ]
        return subprocess.run(words, env={**environment, **more}, capture_output=True, text=True, check=False)

    assert start("first").returncode == 0
    killed = start("second", MMBUILD_FAULT="pull-chunk")
    assert killed.returncode == -9, killed.stderr
    done = start("second")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "nothing ran"
    machine = Machine(tmp_path / "second", url=one.url)
    assert check_store(machine.store).faults == ()
    assert machine.text("r0") == (tmp_path / "first/build/r0/text").read_text()


def test_a_disk_that_gets_full_in_a_pull_is_reported_and_the_store_stays_good(one, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a full disk needs a file system of its own, and mounting one needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("a full disk needs a file system of its own, and none can be mounted here")
    try:
        one.apply(one_large())
        small = Machine(disk, url=one.url)
        plan = small.plan(one_large())
        assert plan.count(Verdict.PULL) == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pulling, "_too_large", lambda *_: {})
            patch.setattr(pulling, "_CHUNK", 1 << 18)
            with open(disk / "ballast", "wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, 4 << 20)
            with pytest.raises(MmbuildError, match="no space left") as caught:
                small.apply(one_large())
        assert caught.value.code == "MM302"
        assert list(small.store.staging.iterdir()) == []
        digest = one.digest("r/0")
        assert "MB free" in pulling.pull(small.shared(), [digest])[digest]
        (disk / "ballast").unlink()
        assert small.apply(one_large()).ran == ()
        assert check_store(small.store).faults == ()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_local_and_shared_stores_without_hard_links(one, other, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    one.apply(chain("r"))
    monkeypatch.setattr(os, "link", refuse)
    assert other.apply(chain("r")).ran == ()
    assert other.text("r") == "a2+a1+a"
    assert check_store(other.store).faults == ()
    assert one.apply(chain("s", text="b")).ok
    assert other.apply(chain("s", text="b")).ran == ()


@pytest.mark.parametrize("skew", [-10 * 365 * 86400, 10 * 365 * 86400])
def test_clocks_that_are_years_apart_change_nothing(one, other, tmp_path, skew):
    one.apply(chain("r"))
    for path in (tmp_path / "shared").rglob("*"):
        os.utime(path, (time.time() + skew,) * 2)
    assert other.apply(chain("r")).ran == ()
    assert not other.plan(chain("r")).changes


def test_the_first_published_result_wins_and_the_other_machine_takes_it(one, other):
    """A step that never comes out the same twice, run by two machines at once."""
    graph = one_large(1000)
    shared = other.shared()
    assert other.plan(graph, shared=shared).count(Verdict.RUN) == 1
    assert one.apply(graph).ran == ("r/0",)
    assert other.apply(graph, shared=shared).ran == ("r/0",)
    assert other.codes() == {"MM827"}
    assert other.bytes("r") != one.bytes("r")
    assert other.verdicts(graph) == {"r/0": "pull"}
    assert other.apply(graph).ran == ()
    assert other.bytes("r") == one.bytes("r")
    assert not other.plan(graph).changes


def test_what_changed_in_the_local_store_is_not_published(one, other):
    one.push = False
    one.apply(chain("r"))
    victim = one.store.tree(one.digest("r/2")) / "text"
    victim.chmod(0o644)
    victim.write_text("other")
    victim.chmod(0o444)
    records = {item.label: item for item in load_cache(one.store).by_key.values()}
    with pytest.raises(MmbuildError, match="changed since it was built") as caught:
        push(one.shared(), records["r/2"])
    assert caught.value.code == "MM830"
    assert other.verdicts(chain("r"))["r/2"] == "run"


def test_collecting_the_local_store_removes_what_pulls_left(one, other):
    one.apply(chain("r"))
    other.apply(chain("r"))
    old = pulling.partial_directory(other.store) / ("0" * 64)
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    collect(other.store)
    assert not old.exists()


def test_nothing_of_the_shared_store_is_lost_when_a_machine_is(one, other, tmp_path):
    one.apply(chain("r"))
    remove_tree(tmp_path / "one")
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    assert other.apply(chain("r")).ran == ()
    assert other.labels_of(EventKind.PULLED) == ["r/2"]


@pytest.mark.parametrize(
    "evil",
    [
        {"digest": "../../../../victim"},
        {"path": "../../../../victim"},
        {"path": "/victim"},
        {"ref": "/etc/hostname"},
        {"size": -1},
        {"size": "1"},
    ],
)
def test_a_manifest_that_means_files_outside_the_store_is_not_believed(one, tmp_path, evil):
    """Its name is its digest: nothing but what it says can give it away."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    store = one.store.root / "remote" / "partial"
    if "digest" in evil:  # as seen from where contents come in
        evil = {"digest": os.path.relpath(victim, store)}
    entry = {"path": "a", "digest": blake3(b"1").hexdigest(), "size": 1, **evil}
    text = json.dumps({"tree": 1, "entries": [entry]}).encode()
    digest = blake3(text).hexdigest()
    place = tmp_path / "shared" / "v1" / names.manifest(digest)
    place.parent.mkdir(parents=True)
    place.write_bytes(text)
    failed = pulling.pull(one.shared(), [digest])
    assert "is invalid" in failed[digest]
    assert victim.read_text() == "mine"
    assert not one.store.has(digest)
