"""Links and other files in place of parts of a store are refused before anything is removed or written."""

import os
import shutil

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.atomic_files import append_line, discard, names_in, write_whole
from mmbuild.core.store.gc import collect
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.stat_cache import digest_file
from mmbuild.core.store.verify import check_store
from support.projects.workspace import Workspace
from support.steps.trivial import chain

DIRECTORIES = (
    "objects",
    "trees",
    "manifests",
    "definitions",
    "roots",
    "plans",
    "logs",
    "locks",
    "staging",
    "remote",
)
FILES = ("journal.jsonl", "history.jsonl", "stat.db", "in-use")


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def victim(tmp_path):
    """Another user's directory with a file in it."""
    (tmp_path / "victim" / "inner").mkdir(parents=True)
    (tmp_path / "victim" / "inner" / "precious").write_text("precious")
    return tmp_path / "victim"


def refused(store):
    with pytest.raises(MmbuildError) as caught:
        open_store(store.root)
    return caught.value


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_link_in_the_place_of_a_directory_is_refused_and_not_followed(store, victim, name):
    (store.root / name).rmdir()
    (store.root / name).symlink_to(victim)
    error = refused(store)
    assert error.code == "MM320"
    assert str(store.root / name) in error.message
    assert (victim / "inner" / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", DIRECTORIES)
@pytest.mark.parametrize("kind", ["file", "pipe", "dangling"])
def test_anything_else_in_the_place_of_a_directory_is_refused(store, name, kind):
    (store.root / name).rmdir()
    if kind == "file":
        (store.root / name).write_text("x")
    elif kind == "pipe":
        os.mkfifo(store.root / name)
    else:
        (store.root / name).symlink_to(store.root / "nowhere")
    assert refused(store).code == "MM320"
    assert not (store.root / "nowhere").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "directory"])
def test_a_file_of_the_store_that_is_none_is_refused(store, victim, name, kind):
    path = store.root / name
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(victim / "inner" / "precious")
    elif kind == "dangling":
        path.symlink_to(victim / "new")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert refused(store).code == "MM320"
    assert (victim / "inner" / "precious").read_text() == "precious"
    assert not (victim / "new").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "binary", "long"])
def test_a_version_that_is_not_small_text_is_not_a_store(store, kind):
    path = store.root / "VERSION"
    path.unlink()
    if kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\n" if kind == "binary" else b"1" * 100_000)
    assert refused(store).code == "MM303"


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o772])
@pytest.mark.parametrize("name", ["", "staging", "trees"])
def test_what_others_may_write_is_refused(store, name, mode):
    (store.root / name).chmod(mode)
    error = refused(store)
    assert error.code == "MM321"
    assert "chmod" in error.hint


def test_a_group_may_share_a_store_as_a_whole(store):
    for path in [store.root, *store.root.iterdir()]:
        if path.is_dir():
            path.chmod(0o2775)
    assert open_store(store.root) == store


def test_a_directory_that_a_group_may_write_in_a_store_of_one_user_is_refused(store):
    store.root.chmod(0o755)
    store.staging.chmod(0o775)
    assert refused(store).code == "MM321"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_directory_of_another_user_is_refused(store):
    store.root.chmod(0o755)
    os.chown(store.trees, 4711, 4711)
    assert refused(store).code == "MM321"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_the_owner_of_the_store_may_own_its_directories(store):
    for path in [store.root, *store.root.iterdir()]:
        os.chown(path, 4711, 4711)
    assert open_store(store.root) == store


@pytest.mark.parametrize("name", ["definitions", "plans", "logs", "locks", "staging", "remote"])
def test_a_missing_directory_is_made_again(tmp_path, name):
    workspace = Workspace(tmp_path)
    workspace.apply(chain("r", links=1))
    shutil.rmtree(workspace.store.root / name)
    assert workspace.apply(chain("s", links=2)).ok
    assert check_store(workspace.store).faults == ()


@pytest.mark.parametrize("root", ["loop", "name" * 100, "file/below"])
def test_a_place_that_cannot_be_a_store_is_refused_with_a_code(tmp_path, root):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("x")
    with pytest.raises(MmbuildError) as caught:
        open_store(tmp_path / root)
    assert caught.value.code in ("MM301", "MM303")


@pytest.mark.parametrize("sweep", [collect, check_store])
def test_links_inside_the_store_are_removed_and_not_followed(tmp_path, victim, sweep):
    workspace = Workspace(tmp_path)
    workspace.apply(chain("r"))
    for name in ("staging/apply-x", "trees/" + "0" * 64, "objects/zz", "objects/ab/link"):
        place = workspace.store.root / name
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(victim)
    sweep(workspace.store)
    assert (victim / "inner" / "precious").read_text() == "precious"
    assert workspace.apply(chain("s")).ok
    assert (victim / "inner" / "precious").read_text() == "precious"


def test_a_tree_that_became_a_link_is_replaced_and_not_followed(tmp_path, victim):
    workspace = Workspace(tmp_path)
    workspace.apply(chain("r"))
    tree = workspace.store.tree(workspace.digest("r/1"))
    discard(tree)
    tree.symlink_to(victim)
    assert len(check_store(workspace.store).faults) == 1
    assert workspace.apply(chain("r")).ok
    assert not tree.is_symlink()
    assert (victim / "inner" / "precious").read_text() == "precious"


def test_a_temporary_name_that_is_a_link_is_not_followed(store, victim):
    path = store.root / "plans" / "x.json"
    path.with_name(f".x.json.{os.getpid()}").symlink_to(victim / "inner" / "precious")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert (victim / "inner" / "precious").read_text() == "precious"


def test_a_file_of_the_store_is_written_where_a_directory_is(store):
    (store.root / "plans" / "x.json" / "inner").mkdir(parents=True)
    write_whole(store.root / "plans" / "x.json", b"new", owned=True)
    assert (store.root / "plans" / "x.json").read_bytes() == b"new"


def test_a_directory_of_the_user_is_not_replaced_by_a_file(victim):
    with pytest.raises(IsADirectoryError):
        write_whole(victim, b"new")
    assert [path.name for path in victim.parent.iterdir() if path.name.startswith(".victim")] == []
    assert (victim / "inner" / "precious").read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_line_is_appended_to_regular_files_only(tmp_path, victim, kind):
    path = tmp_path / "journal"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim / "inner" / "precious")
    with pytest.raises(OSError, match=r"symbolic|regular"):
        append_line(path, b"line\n")
    assert (victim / "inner" / "precious").read_text() == "precious"


def test_a_link_lists_nothing(tmp_path, victim):
    (tmp_path / "link").symlink_to(victim)
    assert names_in(tmp_path / "link") == []
    assert names_in(tmp_path / "nothing") == []


def test_all_that_a_member_of_a_group_makes_in_its_store_may_be_written_by_the_others(tmp_path):
    before = os.umask(0o002)
    try:
        root = tmp_path / "store"
        root.mkdir(0o775)
        Workspace(tmp_path).apply(chain("r"))
        digest_file(open_store(root), root / "VERSION")
    finally:
        os.umask(before)
    made = [*root.glob("*"), *root.glob("objects/*"), *root.glob("trees/*"), *root.glob("logs/*")]
    assert {path.name for path in made} >= {"journal.jsonl", "stat.db", *DIRECTORIES}
    closed = [path.name for path in made if not path.stat().st_mode & 0o020]
    assert closed == []


def test_in_a_store_of_one_user_a_loose_umask_opens_no_directory(tmp_path):
    root = tmp_path / "store"
    root.mkdir(0o755)
    before = os.umask(0o002)
    try:
        Workspace(tmp_path).apply(chain("r"))
    finally:
        os.umask(before)
    assert [path.name for path in root.glob("objects/*") if path.stat().st_mode & 0o022] == []


@pytest.mark.parametrize("text", ["", "\0\0", None])
def test_a_store_without_its_version_has_a_hint(store, text):
    version = store.root / "VERSION"
    version.unlink() if text is None else version.write_text(text)
    (store.root / "journal.jsonl").touch()
    error = refused(store)
    assert error.code == "MM303"
    assert f"echo 1 > {version}" in error.hint
    version.unlink(missing_ok=True)
    version.write_text("1\n")
    assert open_store(store.root) == store
