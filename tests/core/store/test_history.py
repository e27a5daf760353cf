"""The history: a line for each apply, whatever happens to the file."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.core.store import history
from mmbuild.core.store.history import HistoryEntry, append_entry, history_path, only, read_history
from mmbuild.core.store.layout import open_store

ENTRY = HistoryEntry(
    12.5, 3.0, "failed", ("a", "b"), (("a/x", 1.0),), (("b/y", "MM999"),), 2, 1, 9.5, "h", "1"
)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def test_what_is_written_is_read_in_order(store):
    assert read_history(store) == []
    entries = [replace(ENTRY, at=float(number)) for number in range(5)]
    for entry in entries:
        append_entry(store, entry)
    assert read_history(store) == entries


@given(
    st.builds(
        HistoryEntry,
        at=st.floats(0, 1e10),
        seconds=st.floats(0, 1e6),
        ended=st.sampled_from(["done", "failed", "interrupted"]),
        builds=st.lists(st.text()).map(tuple),
        ran=st.lists(st.tuples(st.text(), st.floats(0, 1e6))).map(tuple),
        failed=st.lists(st.tuples(st.text(), st.text())).map(tuple),
    )
)
def test_any_entry_comes_back(tmp_path_factory, entry):
    store = open_store(tmp_path_factory.mktemp("h") / "store")
    append_entry(store, entry)
    assert read_history(store) == [entry]


def test_a_torn_line_costs_itself_alone(store):
    append_entry(store, ENTRY)
    with open(history_path(store), "ab") as stream:
        stream.write(b'{"at": 1, "sec')
    append_entry(store, replace(ENTRY, at=2.0))
    with open(history_path(store), "ab") as stream:
        stream.write(b'{"of": "another version"}\n[]\n')
    assert [entry.at for entry in read_history(store)] == [12.5, 2.0]


def test_a_long_file_loses_its_older_half_at_a_line(store, monkeypatch):
    monkeypatch.setattr(history, "MOST_BYTES", 2000)
    for number in range(40):
        append_entry(store, replace(ENTRY, at=float(number)))
        assert history_path(store).stat().st_size <= 2000
    kept = [entry.at for entry in read_history(store)]
    assert kept == [float(number) for number in range(40 - len(kept), 40)]
    assert len(kept) > 3


def test_entries_are_found_by_the_names_of_builds():
    other = replace(ENTRY, builds=("c",))
    assert only([ENTRY, other], ["b"]) == [ENTRY]
    assert only([ENTRY, other], []) == [ENTRY, other]
