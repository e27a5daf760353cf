"""The store: publishing, materializing, the journal, the stat index, locks, gc and verify."""

import errno
import os
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store import gc, layout, publish, stat_cache
from mmbuild.core.store.action_cache import Record, append, load_cache, parse_record
from mmbuild.core.store.gc import collect
from mmbuild.core.store.hashing import hash_file, hash_files
from mmbuild.core.store.layout import default_root, open_store
from mmbuild.core.store.locks import exclusive_lock, shared_lock, try_lock
from mmbuild.core.store.materialize import materialize
from mmbuild.core.store.plan_cache import cache_name, read_entry, write_entry
from mmbuild.core.store.publish import read_tree
from mmbuild.core.store.stat_cache import digest_file
from mmbuild.core.store.verify import check_store
from support.projects.workspace import Workspace
from support.steps.trivial import action, chain

ROOT_USER = os.geteuid() == 0


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def output(store, name="out", **files):
    out = store.staging / name
    for path, content in files.items():
        target = out / path.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return out


def random_files(seed):
    rng = random.Random(seed)
    return {
        f"d{rng.randrange(3)}__f{i}": rng.randbytes(rng.choice([0, 1, 4096, 3_000_000])) for i in range(5)
    }


@pytest.mark.parametrize("seed", range(4))
def test_what_was_published_is_laid_out_again(store, tmp_path, seed):
    files = random_files(seed)
    artifact = publish.publish(store, output(store, **files))
    materialize(store, artifact.digest, tmp_path / "laid")
    for path, content in files.items():
        laid = tmp_path / "laid" / path.replace("__", "/")
        assert laid.read_bytes() == content
        assert not laid.stat().st_mode & 0o222


def test_equal_files_are_one_artifact_and_stored_once(store):
    one = publish.publish(store, output(store, "a", x=b"same", y=b"1"))
    two = publish.publish(store, output(store, "b", x=b"same", y=b"1"))
    other = publish.publish(store, output(store, "c", x=b"same", y=b"2"))
    assert one.digest == two.digest != other.digest
    first, second = (store.tree(d) / "x" for d in (one.digest, other.digest))
    assert first.stat().st_ino == second.stat().st_ino


def test_the_same_artifact_published_by_many_at_once_is_never_seen_incomplete(store):
    """A seen manifest means a whole tree, also while others publish the same files."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=publish_rounds, args=(store, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert check_store(store).faults == ()


def publish_rounds(store, number):
    for index in range(25):
        files = {"x": f"{index}".encode(), "d__y": b"same everywhere"}
        artifact = publish.publish(store, output(store, f"{number}-{index}", **files))
        for entry in artifact.tree.entries:
            assert (store.tree(artifact.digest) / entry.path).stat().st_size == entry.size


def test_the_executable_bit_is_part_of_an_artifact(store, tmp_path):
    plain = publish.publish(store, output(store, "a", run=b"#!/bin/sh"))
    out = output(store, "b", run=b"#!/bin/sh")
    (out / "run").chmod(0o755)
    executable = publish.publish(store, out)
    assert plain.digest != executable.digest
    materialize(store, executable.digest, tmp_path / "laid")
    assert os.access(tmp_path / "laid" / "run", os.X_OK)
    assert not (store.tree(plain.digest) / "run").stat().st_mode & 0o111


def test_a_hard_link_to_an_input_is_not_read_again(store, monkeypatch):
    first = publish.publish(store, output(store, "a", weights=b"w" * 1000))
    out = output(store, "b", more=b"m")
    os.link(store.tree(first.digest) / "weights", out / "weights")
    read = []
    monkeypatch.setattr(
        publish,
        "hash_files",
        lambda paths, _: read.extend(path.name for path in paths) or hash_files(paths),
    )
    second = publish.publish(store, out, (first.digest,))
    assert read == ["more"]
    assert {e.path: e.digest for e in second.tree.entries}["weights"] == first.tree.entries[0].digest


def test_a_hard_link_to_a_file_of_the_user_becomes_a_copy(store, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("before")
    out = output(store, "a", other=b"o")
    os.link(mine, out / "mine")
    artifact = publish.publish(store, out)
    mine.write_text("after!")
    assert (store.tree(artifact.digest) / "mine").read_text() == "before"
    assert os.access(mine, os.W_OK)
    assert check_store(store).faults == ()


def test_a_symbolic_link_to_a_user_file_is_a_reference(store, tmp_path):
    mine = tmp_path / "weights.bin"
    mine.write_bytes(b"big" * 1000)
    out = output(store, "a", other=b"o")
    (out / "weights").symlink_to(mine)
    artifact = publish.publish(store, out)
    entry = {e.path: e for e in artifact.tree.entries}["weights"]
    assert entry.ref == str(mine)
    assert entry.digest == hash_file(mine)
    assert artifact.tree.size == 1
    materialize(store, artifact.digest, tmp_path / "laid")
    assert (tmp_path / "laid" / "weights").resolve() == mine


@pytest.mark.parametrize("kind", ["empty", "dangling", "fifo", "directory link", "link into the store"])
def test_what_no_artifact_can_hold_is_refused(store, tmp_path, kind):
    out = store.staging / "out"
    out.mkdir()
    if kind == "dangling":
        (out / "x").symlink_to(tmp_path / "absent")
    elif kind == "fifo":
        os.mkfifo(out / "x")
    elif kind == "directory link":
        (out / "x").symlink_to(tmp_path)
    elif kind == "link into the store":
        (out / "x").symlink_to(store.root / "VERSION")
    with pytest.raises(MmbuildError) as caught:
        publish.publish(store, out)
    assert caught.value.code == "MM306"
    assert list((store.root / "manifests").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["link", "replace"])
def test_a_full_disk_is_reported_and_leaves_a_usable_store(store, monkeypatch, number, where):
    def full(*_args, **_kwargs):
        raise OSError(number, os.strerror(number), "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(MmbuildError, match="no space left") as caught:
            publish.publish(store, output(store, "a", x=b"1"))
        assert caught.value.code == "MM302"
        assert "cache gc" in (caught.value.hint or "")
    artifact = publish.publish(store, output(store, "b", x=b"1"))
    assert store.has(artifact.digest)
    assert check_store(store).faults == ()


def test_a_directory_with_other_files_is_not_a_store(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(MmbuildError, match="contains other files") as caught:
        open_store(tmp_path)
    assert caught.value.code == "MM303"
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_a_file_is_not_a_store(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(MmbuildError) as caught:
        open_store(tmp_path / "f")
    assert caught.value.code == "MM303"


def test_a_store_of_another_layout_is_refused(store):
    (store.root / "VERSION").write_text("99\n")
    with pytest.raises(MmbuildError, match="layout '99'"):
        open_store(store.root)


def test_a_store_that_may_not_be_written_is_reported(store, monkeypatch):
    if not ROOT_USER:
        store.root.chmod(0o500)
    else:  # root may write anywhere: answer as the kernel would to another user
        monkeypatch.setattr(os, "access", lambda *_: False)
    try:
        with pytest.raises(MmbuildError, match="belongs to") as caught:
            open_store(store.root)
    finally:
        store.root.chmod(0o700)
    assert caught.value.code == "MM301"
    assert "--store" in (caught.value.hint or "")


@pytest.mark.skipif(not ROOT_USER, reason="only root can become another user")
def test_another_users_store_is_reported(store, tmp_path):
    """The real thing: a process of another user opens a store of this one."""
    import subprocess
    import sys

    code = (
        "import os, pwd\n"
        "from mmbuild.core.store.layout import open_store\n"
        "from mmbuild.base.errors import MmbuildError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"try: open_store({str(store.root)!r})\n"
        "except MmbuildError as error: print(error.code)"
    )
    store.root.chmod(0o700)
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.stdout.strip() == "MM301", shown.stderr


def test_the_default_store_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MMBUILD_STORE", str(tmp_path / "a"))
    assert default_root() == tmp_path / "a"
    monkeypatch.delenv("MMBUILD_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert default_root() == tmp_path / "c" / "mmbuild" / "store"


def hexed(name):
    """A digest that is easy to recognize."""
    return name.encode().hex().ljust(64, "0")


def record(key="k", digest="d", **rest):
    return Record(
        key=hexed(key),
        definition=hexed("definition"),
        inputs={},
        digest=hexed(digest),
        label="r/x",
        body=hexed("b"),
        **rest,
    )


def test_the_last_line_of_a_key_counts(store):
    append(store, record(digest="one"))
    append(store, record(digest="two"))
    assert load_cache(store).by_key[hexed("k")].digest == hexed("two")


def test_refresh_sees_what_was_appended_since(store):
    append(store, record("a"))
    cache = load_cache(store)
    append(store, record("b"))
    assert hexed("b") not in cache.by_key
    cache.refresh()
    assert set(cache.by_key) == {hexed("a"), hexed("b")}


@given(st.data())
def test_a_line_torn_anywhere_costs_only_itself(tmp_path_factory, data):
    store = open_store(tmp_path_factory.mktemp("s") / "store")
    append(store, record("a"))
    append(store, record("b"))
    text = store.journal.read_bytes()
    first = text.index(b"\n") + 1
    store.journal.write_bytes(text[: data.draw(st.integers(first, len(text) - 1))])
    append(store, record("c"))
    a, b, c = map(hexed, "abc")
    assert {a, c} <= set(load_cache(store).by_key) <= {a, b, c}


@given(st.binary(max_size=200))
def test_any_damage_to_a_line_is_survived(text):
    found = parse_record(text)
    assert found is None or isinstance(found, Record)


def test_a_known_stat_saves_the_reading(store, tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("x" * 100)
    monkeypatch.setattr(stat_cache, "SETTLED_NS", 0)
    first = digest_file(store, path)
    monkeypatch.setattr(stat_cache, "hash_file", lambda *_: pytest.fail("read again"))
    assert digest_file(store, path) == first


def test_a_file_that_just_changed_is_not_remembered(store, tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    digest_file(store, path)
    times = path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest_file(store, path) == hash_file(path)


def test_a_damaged_stat_index_is_replaced(store, tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    (store.root / "stat.db").write_bytes(b"this is no database" * 100)
    assert digest_file(store, path) == hash_file(path)
    assert digest_file(store, path) == hash_file(path)


def test_a_plan_counts_while_its_files_are_unchanged(store, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("a")
    os.utime(path, (1, 1))
    name = cache_name({"a": 1})
    deadline = time.monotonic() + 10
    while not write_entry(store, name, [path], {"v": 1}):  # until its ctime has settled
        assert time.monotonic() < deadline
    assert read_entry(store, name) == {"v": 1}
    path.write_text("b")
    assert read_entry(store, name) is None
    assert read_entry(store, cache_name({"a": 2})) is None


def test_a_lock_has_one_holder_until_its_release(store):
    held = try_lock(store.lock("x"))
    assert held is not None
    assert try_lock(store.lock("x")) is None
    held.release()
    again = try_lock(store.lock("x"))
    assert again is not None
    again.release()


def test_gc_and_builds_exclude_each_other(store):
    with (
        shared_lock(store),
        shared_lock(store),
        pytest.raises(MmbuildError, match="a build is using") as caught,
        exclusive_lock(store),
    ):
        pytest.fail("both hold the store")
    assert caught.value.code == "MM305"
    with exclusive_lock(store), pytest.raises(MmbuildError, match="gc"), shared_lock(store):
        pytest.fail("both hold the store")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def test_gc_keeps_what_named_builds_reach(workspace):
    workspace.apply(chain("old", "a"), chain("new", "b"))
    before = len(list((workspace.store.root / "manifests").iterdir()))
    assert collect(workspace.store).removed == ()
    import shutil

    shutil.rmtree(workspace.build / "old")
    swept = collect(workspace.store, dry_run=True)
    assert len(swept.removed) == 3
    assert len(list((workspace.store.root / "manifests").iterdir())) == before
    assert len(collect(workspace.store).removed) == 3
    assert set(workspace.verdicts(chain("new", "b")).values()) == {"up to date"}
    assert check_store(workspace.store).faults == ()
    assert workspace.apply(chain("old", "a")).ran == ("old/0", "old/1", "old/2")


def test_gc_removes_replaced_builds_longest_unused_first(workspace):
    for text in "abc":
        workspace.apply(chain("r", text * 1000, links=1))
    held = gc.reachable_artifacts(workspace.store, load_cache(workspace.store))
    for index, item in enumerate(sorted(held, key=lambda h: h.used)):
        os.utime(workspace.store.manifest(item.digest), (1000 + index, 1000 + index))
    swept = collect(workspace.store, max_size=2500)
    assert len(swept.removed) == 1
    assert swept.kept_size == 2000
    assert swept.freed == 1000
    assert len(collect(workspace.store, older_than=3600).removed) == 1


def test_gc_counts_a_shared_file_once(workspace):
    base = action("write", "r/base", text="x" * 5000)
    users = [action("copy", f"r/{i}", {"i": base}, n=i) for i in range(3)]
    engine = action("write", "r/e", {str(i): u for i, u in enumerate(users)}, text="e")
    workspace.apply(RecipeGraph("r", (base, *users, engine), engine.definition_key))
    swept = collect(workspace.store)
    assert swept.kept_size < 2 * 5000 + 1000 + 5000


@pytest.mark.parametrize("harm", ["object", "manifest", "tree", "extra", "missing object"])
def test_verify_finds_and_removes_damage_and_apply_repairs_it(workspace, harm):
    workspace.apply(chain("r"))
    digest = workspace.digest("r/1")
    entry = read_tree(workspace.store, digest).entries[0]
    target = workspace.store.object(entry.digest)
    if harm == "object":
        target.chmod(0o644)
        target.write_text("damaged")
    elif harm == "manifest":
        workspace.store.manifest(digest).write_text("{")
    elif harm == "tree":
        (workspace.store.tree(digest) / "text").unlink()
    elif harm == "extra":
        (workspace.store.tree(digest) / "more").write_text("x")
    else:
        target.unlink()
    found = check_store(workspace.store)
    assert bool(found.faults) is (harm != "missing object")
    assert check_store(workspace.store).faults == ()
    again = chain("r")
    last = action("write", "r/2", {"text": again.actions[1]}, text="z")
    assert workspace.apply(RecipeGraph("r", (*again.actions[:2], last), last.definition_key)).ok
    assert workspace.text("r") == "z+a1+a"


def test_a_build_that_has_ended_leaves_the_store_to_others_though_a_worker_still_has_its_descriptor(store):
    with shared_lock(store) as hold:
        worker = os.dup(hold.descriptor)
    try:
        with exclusive_lock(store):
            pass
    finally:
        os.close(worker)


def test_an_artifact_whose_referenced_file_moved_follows_it_when_it_is_made_again(store, tmp_path):
    digests = []
    for name in ("before", "after"):
        (tmp_path / name).write_bytes(b"weights")
        out = store.staging / "refer"
        out.mkdir()
        (out / "weights").symlink_to(tmp_path / name)
        digests.append(publish.publish(store, out).digest)
        (tmp_path / "before").unlink(missing_ok=True)
    assert digests[0] == digests[1]
    assert (store.tree(digests[0]) / "weights").read_bytes() == b"weights"
    assert check_store(store).faults == ()


def test_a_file_system_without_hard_links_keeps_a_copy_for_each_artifact(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for extra in ("one", "two"):
        out = store.staging / extra
        out.mkdir()
        (out / "same").write_bytes(b"same")
        (out / extra).write_bytes(extra.encode())
        artifact = publish.publish(store, out)
        assert (store.tree(artifact.digest) / "same").read_bytes() == b"same"
    assert check_store(store).faults == ()


def test_a_store_that_another_process_creates_meanwhile_is_opened(tmp_path, monkeypatch):
    """It had no VERSION when this process looked, and is complete when it looks again."""
    read, calls = layout._read_version, []

    def late(store):
        calls.append(store)
        if len(calls) == 1:
            monkeypatch.setattr(layout, "_read_version", read)
            open_store(store.root)
            return None
        return read(store)

    monkeypatch.setattr(layout, "_read_version", late)
    assert open_store(tmp_path / "store").root == tmp_path / "store"
