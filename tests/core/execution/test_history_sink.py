"""What an apply records in the history."""

import pytest

from mmbuild.core.execution.events import Result
from mmbuild.core.execution.failures import Failed
from mmbuild.core.execution.history_sink import record_history
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.keys import action_key, body_key, make_action
from mmbuild.core.graph.planner import make_plan
from mmbuild.core.store.action_cache import Record, append, load_cache
from mmbuild.core.store.history import history_path, read_history
from mmbuild.core.store.layout import open_store

FIRST = make_action(label="r/first", step="convert", version="1", params={"a": 1})
SECOND = make_action(label="r/second", step="x", version="1", params={}, inputs={"i": FIRST.definition_key})
LAST = make_action(label="r/last", step="y", version="1", params={}, inputs={"i": SECOND.definition_key})
GRAPH = RecipeGraph("r", (FIRST, SECOND, LAST), LAST.definition_key)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def built(store, action, digests, digest, seconds, at=1.0):
    store.manifest(digest).write_text("{}")  # its files count as being here
    key = action_key(action, digests)
    append(
        store,
        Record(
            key,
            action.definition_key,
            digests,
            digest,
            action.label,
            body_key(action),
            seconds=seconds,
            at=at,
        ),
    )


def plan(store, tmp_path):
    return make_plan([GRAPH], store, load_cache(store), tmp_path / "build", lambda *_: "why")


def test_what_ran_and_what_was_there(store, tmp_path):
    built(store, FIRST, {}, "1" * 64, 100.0)

    @record_history
    def apply(_, jobs):
        assert jobs == 2
        built(
            store, LAST, {"i": "3" * 64}, "4" * 64, 20.0
        )  # of an earlier build: its input came out the same
        return Result(ran=("r/second",), reused=("r/last",), times=(("r/second", 2.5),))

    apply(plan(store, tmp_path), jobs=2)
    (entry,) = read_history(store)
    assert (entry.ended, entry.builds, entry.ran) == ("done", ("r",), (("r/second", 2.5),))
    assert (entry.cached, entry.pulled, entry.saved) == (2, 0, 120.0)


def test_failures_are_reported_with_their_codes(store, tmp_path):
    failed = Failed("r/first", "it broke", "MM999", None, (), "log")
    record_history(lambda _: Result(failed=(failed,)))(plan(store, tmp_path))
    (entry,) = read_history(store)
    assert (entry.ended, entry.failed) == ("failed", (("r/first", "MM999"),))


def test_an_interrupted_one_has_what_the_journal_has(store, tmp_path):
    built(store, FIRST, {}, "1" * 64, 100.0)

    @record_history
    def apply(_):
        built(store, SECOND, {"i": "1" * 64}, "2" * 64, 7.0, at=9e9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(plan(store, tmp_path))
    (entry,) = read_history(store)
    assert (entry.ended, entry.ran, entry.cached) == ("interrupted", (("r/second", 7.0),), 1)


def test_nothing_is_noted_where_nothing_was_to_do_or_nothing_could_start(store, tmp_path):
    @record_history
    def refused(_):
        raise ValueError("no toolchain")

    with pytest.raises(ValueError, match="no toolchain"):
        refused(plan(store, tmp_path))
    empty = make_plan([], store, load_cache(store), tmp_path / "build", lambda *_: "why")
    record_history(lambda _: Result())(empty)
    assert read_history(store) == []


def test_a_history_that_cannot_be_written_fails_nothing(store, tmp_path):
    history_path(store).mkdir()
    assert record_history(lambda _: Result())(plan(store, tmp_path)).ok
