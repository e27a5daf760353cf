"""Files changed after they were published or installed are detected before use, and repaired."""

import os
import shutil
from dataclasses import replace

import pytest

from mmbuild.api import run
from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import EventKind
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.plan import graphs_of
from mmbuild.core.store import integrity, materialize, publish, verify
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.locks import shared_lock
from mmbuild.core.store.manifest import read_tree
from mmbuild.core.store.materialize import materialize_file
from mmbuild.core.store.named_builds import read_root, root_path
from mmbuild.core.store.plan_cache import read_entry, write_entry
from mmbuild.core.store.verify import check_store
from support.marks import slow_except
from support.projects.workspace import Workspace
from support.steps.trivial import action, chain

HARMS = ("flip", "flip with times set back", "grow", "truncate", "directory", "pipe", "link")
SOME = ("flip with times set back", "grow", "pipe")
"""For tests that build more than once."""


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def harm(path, how):
    """Change a file in place, as a careless or a hostile program does."""
    times = path.stat()
    path.chmod(0o644)
    if how.startswith("flip"):
        with open(path, "r+b") as stream:
            first = stream.read(1)
            stream.seek(0)
            stream.write(bytes([first[0] ^ 1]))
    elif how == "grow":
        with open(path, "ab") as stream:
            stream.write(b"more")
    elif how == "truncate":
        path.write_bytes(b"")
    else:
        path.unlink()
        if how == "directory":
            path.mkdir()
        elif how == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
    if how.endswith("set back"):
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def stored(workspace, label):
    """The file `text` of an action's artifact, in the store."""
    return workspace.store.tree(workspace.digest(label)) / "text"


def clean(graph, tmp_path):
    """What the build of `graph` holds where nothing was ever damaged."""
    other = Workspace(tmp_path / "clean")
    other.apply(graph)
    return other.text(graph.recipe)


def longer(recipe="r", end="end"):
    """`chain(recipe)` with another last action."""
    known = chain(recipe)
    last = action("write", f"{recipe}/2", {"text": known.actions[1]}, text=end)
    return RecipeGraph(recipe, (*known.actions[:2], last), last.definition_key)


# Installed engines.


def test_a_small_file_is_laid_out_as_a_copy(workspace):
    workspace.apply(chain("r"))
    laid = workspace.build / "r" / "text"
    assert laid.stat().st_nlink == 1
    harm(laid, "flip")
    assert check_store(workspace.store).faults == ()


def test_a_large_file_is_a_link_and_not_a_copy(workspace, monkeypatch):
    monkeypatch.setattr(materialize, "COPIED", 0)
    workspace.apply(chain("r"))
    assert (workspace.build / "r" / "text").samefile(stored(workspace, "r/2"))


def test_across_file_systems_a_large_file_is_a_symbolic_link(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_text("x")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "cross-device link")))
    materialize_file(source, tmp_path / "target", 0o444, materialize.COPIED + 1)
    assert (tmp_path / "target").readlink() == source


def test_where_nothing_can_be_linked_a_large_file_is_not_copied(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_text("x")
    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(1, "not permitted")))
    with pytest.raises(MmbuildError) as caught:
        materialize_file(source, tmp_path / "target", 0o444, materialize.COPIED + 1)
    assert caught.value.code == "MM324"
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("how", SOME)
@pytest.mark.parametrize("name", ["text", "manifest.json"])
def test_an_edited_build_is_laid_out_again(workspace, how, name):
    workspace.apply(chain("r"))
    before = (workspace.build / "r" / name).read_bytes()
    harm(workspace.build / "r" / name, how)
    assert workspace.verdicts(chain("r"))["r/2"] == "restore"
    assert workspace.apply(chain("r")).ran == ()
    after = (workspace.build / "r" / name).read_bytes()
    assert after == before or name == "manifest.json"
    assert set(workspace.verdicts(chain("r")).values()) == {"up to date"}


@pytest.mark.parametrize("how", slow_except(HARMS, *SOME))
def test_verify_reports_an_edited_build_and_apply_repairs_it(workspace, how):
    workspace.apply(chain("r"))
    before = workspace.text("r")
    harm(workspace.build / "r" / "text", how)
    found = check_store(workspace.store)
    assert found.faults == ()
    assert [str(workspace.build / "r") in line for line in found.builds] == [True]
    assert "was changed: `text`" in workspace.reasons(chain("r"))["r/2"]
    workspace.apply(chain("r"))
    assert workspace.text("r") == before
    assert check_store(workspace.store).builds == ()


def test_a_changed_time_alone_is_not_damage(workspace):
    workspace.apply(chain("r"))
    os.utime(workspace.build / "r" / "text", (1, 1))
    assert check_store(workspace.store).builds == ()


def test_a_changed_inode_time_alone_lays_nothing_out_again(workspace):
    workspace.apply(chain("r"))
    (workspace.build / "r" / "text").chmod(0o644)
    assert set(workspace.verdicts(chain("r")).values()) == {"up to date"}


def test_a_build_that_an_earlier_version_laid_out_is_laid_out_again_with_digests(workspace):
    import json

    from mmbuild.core.store.named_builds import root_path

    workspace.apply(chain("r"))
    path = root_path(workspace.store, workspace.build / "r")
    data = json.loads(path.read_text())
    del data["void"]
    data["files"] = {name: numbers[:3] for name, numbers in data["files"].items()}
    path.write_text(json.dumps(data))
    manifest = workspace.build / "r" / "manifest.json"
    reported = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**reported, "files": sorted(reported["files"])}))
    assert workspace.verdicts(chain("r"))["r/2"] == "restore"
    workspace.apply(chain("r"))
    assert json.loads(manifest.read_text())["files"] == reported["files"]
    assert set(workspace.verdicts(chain("r")).values()) == {"up to date"}


@pytest.mark.parametrize("how", ["flip with times set back", "grow"])
def test_an_edit_of_a_large_file_in_a_build_is_found_before_it_is_used(workspace, monkeypatch, tmp_path, how):
    """The file is the store's own: apply must not lay it out again, nor build from it."""
    monkeypatch.setattr(materialize, "COPIED", 0)
    graph = chain("r")
    workspace.apply(graph)
    harm(workspace.build / "r" / "text", how)
    with pytest.raises(MmbuildError) as caught:
        workspace.apply(graph)
    assert caught.value.code == "MM323"
    assert "cache verify" in caught.value.hint
    assert check_store(workspace.store).faults != ()
    workspace.apply(graph)
    assert workspace.text("r") == clean(graph, tmp_path)


# What is used.


@pytest.mark.parametrize("how", slow_except(HARMS, *SOME))
def test_a_damaged_input_is_not_used(workspace, tmp_path, how):
    workspace.apply(chain("r"))
    harm(stored(workspace, "r/1"), how)
    (failed,) = workspace.apply(longer()).failed
    assert failed.code == "MM323"
    assert "cache verify" in failed.hint
    assert check_store(workspace.store).faults != ()
    assert workspace.apply(longer()).ok
    assert workspace.text("r") == clean(longer(), tmp_path)


def test_a_damaged_input_is_found_where_the_manifest_has_no_stats(workspace):
    """As those of older versions."""
    from mmbuild.core.store.manifest import tree_json

    workspace.apply(chain("r"))
    manifest = workspace.store.manifest(workspace.digest("r/1"))
    manifest.write_bytes(tree_json(read_tree(workspace.store, workspace.digest("r/1"))))
    assert workspace.apply(longer()).ok
    harm(stored(workspace, "r/1"), "flip")
    assert [failed.code for failed in workspace.apply(longer(end="other")).failed] == ["MM323"]


def test_paranoid_reads_files_with_an_unchanged_stat(workspace, monkeypatch):
    """Damage of the disk changes no times."""
    workspace.apply(chain("r"))
    digest = workspace.digest("r/1")
    read = []
    monkeypatch.setattr(integrity, "hash_file", lambda path: read.append(path) or "other")
    integrity.check_inputs(workspace.store, [digest])
    assert read == []
    with pytest.raises(MmbuildError, match="no longer has the content"):
        integrity.check_inputs(workspace.store, [digest], paranoid=True)


def test_a_copied_store_is_read_once_more_and_then_used(workspace, tmp_path):
    workspace.apply(chain("r"))
    shutil.copytree(workspace.root / "store", tmp_path / "copy" / "store")
    other = Workspace(tmp_path / "copy")
    assert other.apply(longer()).ran == ("r/2",)


def output(store, name, **files):
    out = store.staging / name
    out.mkdir()
    for path, content in files.items():
        (out / path).write_bytes(content)
    return out


@pytest.mark.parametrize("how", slow_except(HARMS, *SOME))
def test_a_damaged_object_is_replaced_by_one_that_is_published_again(tmp_path, how):
    """Deduplication must not put the damaged bytes into the new artifact."""
    store = open_store(tmp_path / "store")
    first = publish.publish(store, output(store, "a", x=b"same", y=b"1"))
    entry = next(entry for entry in first.tree.entries if entry.path == "x")
    harm(store.object(entry.digest), how)
    second = publish.publish(store, output(store, "b", x=b"same", y=b"2"))
    assert (store.tree(second.digest) / "x").read_bytes() == b"same"
    assert store.object(entry.digest).read_bytes() == b"same"


@pytest.mark.parametrize("how", slow_except(HARMS, *SOME))
def test_a_damaged_artifact_is_replaced_by_one_that_is_published_again(tmp_path, how):
    store = open_store(tmp_path / "store")
    first = publish.publish(store, output(store, "a", x=b"same"))
    harm(store.tree(first.digest) / "x", how)
    assert publish.publish(store, output(store, "b", x=b"same")).digest == first.digest
    assert (store.tree(first.digest) / "x").read_bytes() == b"same"
    assert check_store(store).faults == ()


def test_links_that_mmbuild_makes_cost_no_second_reading(tmp_path, monkeypatch):
    """Each changes the time of the inode, which is why it is remembered."""
    monkeypatch.setattr(integrity, "SMALL", 0)
    monkeypatch.setattr(publish, "SMALL", 0)
    monkeypatch.setattr("mmbuild.core.store.stat_cache.SMALL", 0)
    monkeypatch.setattr(materialize, "COPIED", 0)
    store = open_store(tmp_path / "store")
    first = publish.publish(store, output(store, "a", x=b"large"))
    materialize.materialize(store, first.digest, tmp_path / "laid")
    monkeypatch.setattr("mmbuild.core.store.stat_cache.hash_file", lambda *_: pytest.fail("read again"))
    materialize.materialize(store, first.digest, tmp_path / "again")
    integrity.check_inputs(store, [first.digest])


# What a check removes.


def test_the_consumers_of_what_was_damaged_are_built_again(workspace, tmp_path):
    """They may have read the damaged bytes: here they did, since an older version does not look."""
    graph = chain("r", links=4)
    workspace.apply(graph)
    wrong = {label: workspace.digest(label) for label in ("r/2", "r/3")}
    harm(stored(workspace, "r/1"), "flip")
    found = check_store(workspace.store)
    assert found.consumers == ("r/2", "r/3")
    assert not any(workspace.store.has(digest) for digest in wrong.values())
    assert {record.label for record in load_cache(workspace.store).by_key.values()} == {"r/0", "r/1"}
    result = workspace.apply(graph)
    assert result.ran == ("r/1", "r/2", "r/3")
    assert workspace.text("r") == clean(graph, tmp_path)
    assert check_store(workspace.store).faults == ()


def test_what_is_not_downstream_of_the_damage_stays(workspace):
    workspace.apply(chain("r"), chain("s", text="other"))
    harm(stored(workspace, "r/1"), "flip")
    found = check_store(workspace.store)
    assert [str(workspace.build / "r") in line for line in found.builds] == [True]
    assert set(workspace.verdicts(chain("s", text="other")).values()) == {"up to date"}


def test_a_result_that_something_else_also_made_stays(workspace):
    first = action("write", "r/first", text="a")
    one = action("constant", "r/one", {"x": first})
    other = action("constant", "r/other", n=1)
    engine = action("write", "r/engine", {"a": one, "b": other}, text="e")
    workspace.apply(RecipeGraph("r", (first, one, other, engine), engine.definition_key))
    harm(stored(workspace, "r/first"), "flip")
    check_store(workspace.store)
    assert workspace.store.has(workspace.digest("r/other"))


def test_a_damaged_engine_voids_the_builds_that_hold_it(workspace, tmp_path):
    """Also where the build itself, a copy, was not touched."""
    workspace.apply(chain("r"))
    harm(stored(workspace, "r/2"), "flip")
    assert len(check_store(workspace.store).builds) == 1
    assert read_root(workspace.store, workspace.build / "r").void
    assert workspace.apply(chain("r")).ran == ("r/2",)
    assert not read_root(workspace.store, workspace.build / "r").void
    assert workspace.text("r") == clean(chain("r"), tmp_path)


def test_a_check_that_is_killed_finds_the_damage_again(workspace, tmp_path):
    import multiprocessing

    workspace.apply(chain("r"))
    harm(stored(workspace, "r/1"), "flip")
    worker = multiprocessing.get_context("fork").Process(target=killed_check, args=(workspace.store,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -9
    assert check_store(workspace.store).faults != ()
    workspace.apply(chain("r"))
    assert workspace.text("r") == clean(chain("r"), tmp_path)


def killed_check(store):
    os.environ["MMBUILD_FAULT"] = "verify-forgotten"
    check_store(store)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("objects/ab/" + "ab" * 32, "directory"),
        ("objects/ab/" + "ab" * 32, "dangling"),
        ("objects/ab/" + "ab" * 32, "loop"),
        ("objects/ab/" + "ab" * 32, "pipe"),
        ("objects/ab/" + "ab" * 32, "deep"),
        ("objects/ab/name", "file"),
        ("objects/file", "file"),
        ("objects/pipe", "pipe"),
        ("manifests/" + "ab" * 32 + ".json", "directory"),
        ("manifests/" + "ab" * 32 + ".json", "deep"),
        ("manifests/" + "ab" * 32 + ".json", "loop"),
        ("manifests/" + "ab" * 32 + ".json", "pipe"),
        ("manifests/name", "file"),
        ("trees/" + "ab" * 32, "pipe"),
        ("trees/name", "loop"),
        ("staging/name", "pipe"),
        ("staging/name", "dangling"),
    ],
)
def test_verify_removes_files_that_are_neither_objects_nor_artifacts(workspace, place, kind):
    workspace.apply(chain("r"))
    path = workspace.store.root / place
    path.parent.mkdir(exist_ok=True)
    make(path, kind)
    found = check_store(workspace.store)
    assert found.faults or found.leftovers
    assert not os.path.lexists(path)
    assert check_store(workspace.store) == check_store(workspace.store)
    assert set(workspace.verdicts(chain("r")).values()) == {"up to date"}


def make(path, kind):
    if kind == "directory":
        (path / "inner").mkdir(parents=True)
    elif kind == "dangling":
        path.symlink_to("/nowhere/at/all")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("[" * 100_000 if kind == "deep" else "x")


# Whole files in the place of others.


def test_the_plan_of_another_recipe_under_a_recipes_name_is_not_taken(workspace):
    for name, value in (("one", 1), ("two", 2)):
        assert write_entry(workspace.store, name, [], value)
    plans = workspace.store.root / "plans"
    shutil.copy(plans / "one.json", plans / "two.json")
    assert (read_entry(workspace.store, "one"), read_entry(workspace.store, "two")) == (1, None)


def test_the_notes_on_another_build_do_not_vouch_for_a_build(workspace):
    workspace.apply(chain("r"), chain("s", "b"))
    harm(workspace.build / "r" / "text", "flip")
    before = [root_path(workspace.store, workspace.build / name) for name in ("s", "r")]
    shutil.copy(*before)
    workspace.apply(chain("r"), chain("s", "b"))
    assert workspace.text("r") == clean(chain("r"), workspace.root)


def test_the_manifest_of_another_artifact_is_refused_and_removed_by_verify(workspace):
    workspace.apply(chain("r"))
    text = workspace.store.manifest(workspace.digest("r/1")).read_bytes()
    workspace.store.manifest(workspace.digest("r/2")).write_bytes(text)
    shutil.rmtree(workspace.build)
    with pytest.raises(MmbuildError) as caught:
        workspace.apply(chain("r"))
    assert caught.value.code == "MM304"
    assert len(check_store(workspace.store).faults) == 1
    workspace.apply(chain("r"))
    assert workspace.text("r") == clean(chain("r"), workspace.root)


def test_a_directory_in_the_place_of_a_file_gives_way_and_its_content_stays(workspace):
    workspace.apply(chain("r"))
    laid = workspace.build / "r" / "text"
    harm(laid, "directory")
    (laid / "inner").mkdir()
    (laid / "inner" / "answer").write_text("mine")
    workspace.apply(chain("r"))
    assert workspace.text("r") == clean(chain("r"), workspace.root)
    assert (workspace.build / "r" / "text~" / "inner" / "answer").read_text() == "mine"
    assert set(workspace.verdicts(chain("r")).values()) == {"up to date"}


def tree(name):
    """Two files, one of them in a directory."""
    engine = action("nested", f"{name}/engine", text="x")
    return RecipeGraph(name, (engine,), engine.definition_key)


def test_a_file_added_where_engines_are_loaded_from_moves_to_where_nothing_is(workspace):
    workspace.apply(tree("r"))
    build = workspace.build / "r"
    for name in ("answer", "inner/notes"):
        (build / name).write_text("mine")
    assert set(workspace.verdicts(tree("r")).values()) == {"restore"}
    assert len(check_store(workspace.store).builds) == 1
    workspace.apply(tree("r"))
    found = {str(path.relative_to(build)) for path in build.rglob("*") if path.is_file()}
    assert found == {"answer", "inner/text", "inner~/notes", "manifest.json", "text"}
    assert check_store(workspace.store).builds == ()


# An apply by itself.


def apply_alone(workspace, graph, monkeypatch, **options):
    """An apply as the command line does it, and the codes of its warnings."""
    monkeypatch.setenv("MMBUILD_STEPS", "support.steps.trivial:TABLE")
    events = []
    result = run(workspace.plan(graph), sink=events.append, **options)
    return result, [event.data["code"] for event in events if event.kind is EventKind.WARNING]


@pytest.mark.parametrize("how", SOME)
def test_an_edited_link_to_the_store_is_repaired_by_the_next_apply(workspace, monkeypatch, how):
    monkeypatch.setattr(materialize, "COPIED", 0)
    workspace.apply(chain("r"))
    harm(stored(workspace, "r/2") if how == "pipe" else workspace.build / "r" / "text", how)
    (workspace.build / "r" / "manifest.json").unlink()
    result, warned = apply_alone(workspace, chain("r"), monkeypatch)
    assert (result.ran, warned) == (("r/2",), ["MM327"])
    assert workspace.text("r") == clean(chain("r"), workspace.root)
    found = check_store(workspace.store)
    assert (found.faults, found.builds) == ((), ())


@pytest.mark.parametrize("how", SOME)
def test_a_damaged_input_is_built_again_with_all_that_was_built_from_it(workspace, monkeypatch, how):
    workspace.apply(chain("r"))
    harm(stored(workspace, "r/1"), how)
    result, warned = apply_alone(workspace, longer(), monkeypatch)
    assert (result.ran, warned) == (("r/1", "r/2"), ["MM327"])
    assert workspace.text("r") == clean(longer(), workspace.root)
    assert load_cache(workspace.store).torn == 0
    assert check_store(workspace.store).faults == ()


def test_nothing_is_repaired_while_another_process_uses_the_store(workspace, monkeypatch):
    workspace.apply(chain("r"))
    harm(stored(workspace, "r/1"), "grow")
    with shared_lock(workspace.store):
        result, warned = apply_alone(workspace, longer(), monkeypatch)
    assert ([failed.code for failed in result.failed], warned) == (["MM323"], [])


def test_a_plan_that_is_made_again_keeps_the_settings_of_its_builds(workspace):
    graph = replace(chain("r"), settings={"engine.dtype": "float32"})
    assert [again.settings for again in graphs_of(workspace.plan(graph))] == [graph.settings]


@pytest.mark.parametrize("what", ["file", "pipe", "link to nothing"])
def test_a_build_directory_that_is_none_is_refused_before_anything_runs(workspace, what):
    if what == "file":
        workspace.build.touch()
    elif what == "pipe":
        os.mkfifo(workspace.build)
    else:
        workspace.build.symlink_to(workspace.root / "gone")
    with pytest.raises(MmbuildError) as caught:
        workspace.apply(chain("r"))
    assert caught.value.code == "MM315"
    assert str(workspace.build) in caught.value.message
    assert load_cache(workspace.store).by_key == {}


def test_a_link_in_the_place_of_an_engine_directory_is_replaced_and_gone(workspace):
    workspace.apply(chain("r"))
    (workspace.build / "r").rename(workspace.root / "moved")
    (workspace.build / "r").symlink_to(workspace.root / "moved")
    workspace.apply(longer())
    assert [path.name for path in workspace.build.iterdir()] == ["r"]
    assert workspace.text("r") == clean(longer(), workspace.root)


def test_a_check_reports_the_bytes_that_it_has_hashed_until_all_are(workspace, monkeypatch):
    monkeypatch.setattr(verify, "_REPORTED_FILES", 1)
    workspace.apply(chain("r"))
    seen = []
    check_store(workspace.store, lambda _, amount: seen.append(amount))
    objects = [path for path in workspace.store.objects.rglob("*") if path.is_file()]
    assert len(seen) == len(objects) > 1
    assert seen == sorted(seen, key=lambda amount: amount.done)
    assert (seen[-1].done, seen[-1].complete) == (sum(path.stat().st_size for path in objects), True)
