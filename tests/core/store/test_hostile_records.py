"""Files of the store that hold anything: a bad line costs itself, a bad file is as good as a missing one."""

import dataclasses
import json
import os
import sqlite3
import time

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import is_inner_path
from mmbuild.base.limits import NAME, PATH, STORE_HISTORY, STORE_RECORD
from mmbuild.core.graph.rebuild_reasons import read_definition
from mmbuild.core.store import action_cache, stat_cache
from mmbuild.core.store.action_cache import Record, append, load_cache, parse_record
from mmbuild.core.store.hashing import hash_file
from mmbuild.core.store.history import HistoryEntry, append_entry, history_path, read_history
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.manifest import parse_manifest, read_tree
from mmbuild.core.store.named_builds import Root, read_root, root_path, write_root
from mmbuild.core.store.plan_cache import cache_name, forget_entry, read_entry, write_entry
from mmbuild.core.store.stat_cache import digest_file
from support.marks import slow_except
from support.projects.workspace import Workspace
from support.steps.trivial import chain

HEX = "ab" * 32
RECORD = Record(HEX, HEX, {"x": HEX}, HEX, "r/x", HEX, 1, 1.5, 2, 3.5, "host")
VALUES = {
    "null": None,
    "flag": True,
    "text": "x",
    "number": 7,
    "negative": -1,
    "huge": 10**39,
    "list": [],
    "nested": {"a": {"b": []}},
    "nul": "a\0b",
    "climbing": "../../../etc/passwd",
    "long": "x" * 5000,
}
TEXTS = {
    "empty": b"",
    "nothing": b"null",
    "list": b"[1]",
    "number": b"7",
    "infinite": b'{"at": Infinity}',
    "nan": b'{"at": NaN}',
    "exponent": b'{"at": 1e999}',
    "digits": b'{"size": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "surrogate": b'{"label": "\\ud800"}',
    "binary": bytes(range(256)),
    "mark": b"\xef\xbb\xbf{}",
}


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def odd(path, kind):
    """Make `path` something that must neither hang a reader nor surprise it."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(TEXTS[kind])


ODD = ("pipe", "directory", "loop", "endless", *TEXTS)


# The journal.


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Record)])
@pytest.mark.parametrize("value", VALUES)
def test_a_record_has_valid_fields_or_is_rejected(field, value):
    data = {**dataclasses.asdict(RECORD), field: VALUES[value]}
    found = parse_record(json.dumps(data).encode())
    if found is not None:
        assert type(getattr(found, field)) in (type(getattr(RECORD, field)), int)
        json.dumps(dataclasses.asdict(found)).encode()
    if field in ("key", "definition", "digest", "body"):
        assert found is None


@pytest.mark.parametrize(
    "digest", ["", "ab", HEX + "a", HEX.upper(), "g" * 64, "../" * 20 + "etc/", HEX[:-1] + "\n"]
)
def test_a_record_with_an_invalid_digest_is_rejected(digest):
    assert parse_record(json.dumps({**dataclasses.asdict(RECORD), "digest": digest}).encode()) is None


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_record_has_its_fields_and_no_others(change):
    data = dataclasses.asdict(RECORD)
    if change == "missing":
        del data["key"]
    else:
        data["more"] = 1
    assert parse_record(json.dumps(data).encode()) is None


@pytest.mark.parametrize("text", TEXTS)
def test_a_bad_line_of_the_journal_costs_that_line_only(store, text):
    append(store, RECORD)
    with open(store.journal, "ab") as stream:
        stream.write(TEXTS[text].replace(b"\n", b" ") + b"\n")
    append(store, dataclasses.replace(RECORD, key="cd" * 32))
    assert set(load_cache(store).by_key) == {HEX, "cd" * 32}


def test_a_line_of_the_journal_has_a_limit(store):
    append(store, dataclasses.replace(RECORD, inputs={"x" * STORE_RECORD.size: HEX}))
    append(store, dataclasses.replace(RECORD, key="cd" * 32))
    assert set(load_cache(store).by_key) == {"cd" * 32}


def test_a_line_that_is_longer_than_what_is_read_at_once_is_left_out(store, monkeypatch):
    monkeypatch.setattr(action_cache, "_CHUNK", 4096)
    store.journal.write_bytes(b"x" * 10_000 + b"\n")
    append(store, RECORD)
    cache = load_cache(store)
    assert set(cache.by_key) == {HEX}
    assert cache.torn > 0


def test_a_journal_without_an_end_is_refused(store):
    with open(store.journal, "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(MmbuildError) as caught:
        load_cache(store)
    assert caught.value.code == "MM322"


# The history.


@pytest.mark.parametrize("kind", ODD)
def test_a_history_of_anything_is_read(store, kind):
    odd(history_path(store), kind)
    assert read_history(store) == []


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(HistoryEntry)])
@pytest.mark.parametrize("value", VALUES)
def test_an_entry_of_the_history_holds_what_its_fields_say_or_is_left_out(store, field, value):
    entry = HistoryEntry(1.0, 2.0, "done", ("r",), (("r/x", 1.0),), (("r/y", "MM310"),))
    append_entry(store, entry)
    data = {**dataclasses.asdict(entry), field: VALUES[value]}
    with open(history_path(store), "ab") as stream:
        stream.write(json.dumps(data).encode() + b"\n")
    found = read_history(store)
    assert found[0] == entry
    assert all(type(getattr(item, field)) in (type(getattr(entry, field)), int, float) for item in found)


def test_a_line_of_the_history_has_a_limit(store):
    history_path(store).write_bytes(b'{"ended": "' + b"x" * STORE_HISTORY.size + b'"}\n')
    assert read_history(store) == []


# Manifests, named builds, definitions, plans.


@pytest.mark.parametrize("kind", ODD)
def test_a_manifest_of_anything_is_damaged(store, kind):
    odd(store.manifest(HEX), kind)
    with pytest.raises(MmbuildError) as caught:
        read_tree(store, HEX)
    assert caught.value.code == "MM304"


@pytest.mark.parametrize("field", ["path", "digest", "size", "executable", "ref", "unknown"])
@pytest.mark.parametrize("value", [name for name in VALUES if name not in ("number", "text")])
def test_an_entry_of_a_manifest_holds_what_its_fields_say(field, value):
    if (field, value) in (("executable", "flag"), ("ref", "null")):
        pytest.skip("that is what the field says")
    entry = {"path": "a", "digest": HEX, "size": 1, field: VALUES[value]}
    with pytest.raises(MmbuildError) as caught:
        parse_manifest(json.dumps({"tree": 1, "entries": [entry]}).encode(), "x")
    assert caught.value.code == "MM304"


@pytest.mark.parametrize(
    "path", ["a\0b", "x" * (NAME + 1), "/".join(["x" * 200] * 20), "é" * 128, "a/../b", "\ud800"]
)
def test_a_path_that_no_file_system_takes_is_none(path):
    assert not is_inner_path(path)


def test_a_path_at_the_limit_is_one():
    assert is_inner_path("x" * NAME)
    assert is_inner_path("/".join(["x" * 99] * (PATH // 100)))


@pytest.mark.parametrize(
    "seen", [None, 7, [], [[1]], [["a", 1, 2, 3]], [[1, 2, 3, 4]] * 2, [[True, 1, 2, 3]]]
)
def test_stats_of_anything_in_a_manifest_mean_that_the_files_are_read(tmp_path, seen):
    workspace = Workspace(tmp_path)
    workspace.apply(chain("r", links=1))
    manifest = workspace.store.manifest(workspace.digest("r/0"))
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "seen": seen}))
    assert read_tree(workspace.store, workspace.digest("r/0")).seen == ()


@pytest.mark.parametrize("kind", ODD)
def test_a_named_build_of_anything_is_unknown(store, kind):
    odd(root_path(store, "/b/r"), kind)
    assert read_root(store, "/b/r") is None


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Root)])
@pytest.mark.parametrize("value", [*VALUES, "numbers"])
def test_a_named_build_holds_what_its_fields_say_or_is_unknown(store, field, value):
    root = Root("/b/r", "r", {"": HEX}, {"r/x": HEX}, {"r/x": HEX}, {"f": (1, 2, 3, 4, "x")}, {}, 1.0)
    write_root(store, root)
    assert read_root(store, "/b/r") == root
    path = root_path(store, "/b/r")
    changed = {"f": ["1", 2, 3]} if value == "numbers" else VALUES[value]
    path.write_text(json.dumps({**json.loads(path.read_text()), field: changed}))
    found = read_root(store, "/b/r")
    assert found is None or type(getattr(found, field)) in (type(getattr(root, field)), int)


@pytest.mark.parametrize("kind", ODD)
def test_a_definition_of_anything_is_unknown(store, kind):
    odd(store.definition(HEX), kind)
    assert read_definition(store, HEX) is None


@pytest.mark.parametrize("part", ["step", "version", "params", "inputs", "sources", "target", "toolchain"])
@pytest.mark.parametrize("value", slow_except(["null", "number", "list"], "null"))
def test_a_damaged_definition_gives_a_reason_all_the_same(tmp_path, part, value):
    workspace = Workspace(tmp_path)
    workspace.apply(chain("r", links=1))
    for path in (workspace.store.root / "definitions").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), part: VALUES[value]}))
    assert workspace.reasons(chain("r", text="b", links=1)) == {"r/0": "its definition changed"}


@pytest.fixture
def planned(store, tmp_path):
    """A cached plan that counts, and its file."""
    path = tmp_path / "recipe.yaml"
    path.write_text("a")
    deadline = time.monotonic() + 10
    while not write_entry(store, cache_name({}), [path], {"width": 1234}):
        assert time.monotonic() < deadline
    assert read_entry(store, cache_name({})) == {"width": 1234}
    return store.root / "plans" / f"{cache_name({})}.json"


def test_a_cached_plan_with_one_other_byte_does_not_count(store, planned):
    content = planned.read_bytes()
    for place in range(len(content)):
        planned.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert read_entry(store, cache_name({})) is None


@pytest.mark.parametrize("kind", ODD)
def test_a_cached_plan_of_anything_does_not_count(store, planned, kind):
    odd(planned, kind)
    assert read_entry(store, cache_name({})) is None
    forget_entry(store, cache_name({}))
    assert not os.path.lexists(planned)


@pytest.mark.parametrize("text", TEXTS)
def test_a_cached_plan_of_anything_with_its_checksum_does_not_count(store, planned, text):
    import hashlib

    planned.write_bytes(
        hashlib.blake2b(TEXTS[text], digest_size=20).hexdigest().encode() + b"\n" + TEXTS[text]
    )
    assert read_entry(store, cache_name({})) is None


# The index of stats.


@pytest.fixture
def indexed(store, tmp_path, monkeypatch):
    """A file whose digest is known."""
    monkeypatch.setattr(stat_cache, "SETTLED_NS", 0)
    path = tmp_path / "f"
    path.write_text("content")
    digest_file(store, path)
    return path


def test_a_digest_of_the_index_that_changed_does_not_count(store, indexed):
    with sqlite3.connect(store.root / "stat.db") as connection:
        assert connection.execute("UPDATE known SET digest = ?", (HEX,)).rowcount == 1
    assert digest_file(store, indexed) == hash_file(indexed)


@pytest.mark.parametrize("value", [None, 7, b"x", "x", "x" * 100_000, HEX.upper()])
def test_a_row_of_anything_does_not_count(store, indexed, value):
    with sqlite3.connect(store.root / "stat.db") as connection:
        connection.execute("UPDATE known SET digest = ?, checksum = ?", (value, value))
    assert digest_file(store, indexed) == hash_file(indexed)


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE known (one TEXT)",
        "CREATE VIEW known AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        " SELECT i AS dev, i AS ino, i AS size, i AS mtime, i AS ctime, 'x' AS digest, 'x' AS checksum FROM n",
        "CREATE TABLE files (dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, digest TEXT)",
    ],
    ids=["other columns", "endless view", "older version"],
)
def test_an_index_of_another_schema_is_not_used(store, indexed, schema):
    (store.root / "stat.db").unlink()
    with sqlite3.connect(store.root / "stat.db") as connection:
        connection.execute(schema)
    begin = time.monotonic()
    assert digest_file(store, indexed) == hash_file(indexed)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("kind", ["pipe", "directory", "endless", "loop"])
def test_an_index_that_is_not_a_file_is_not_used(store, indexed, kind):
    odd(store.root / "stat.db", kind)
    assert digest_file(store, indexed) == hash_file(indexed)


def test_an_index_that_another_process_holds_is_not_waited_for(store, indexed):
    holder = sqlite3.connect(store.root / "stat.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    with stat_cache.closing(stat_cache.StatCache(store)) as index:
        for _ in range(20):
            assert index.digest(indexed) == hash_file(indexed)
    assert time.monotonic() - begin < 2
    holder.close()


def test_numbers_that_no_database_takes_are_no_failure(store, indexed, monkeypatch):
    monkeypatch.setattr(stat_cache, "file_stat", lambda _: (1 << 64, 1, 1, 1, 1))
    assert digest_file(store, indexed) == hash_file(indexed)
