"""What gc removes from a shared directory, what it keeps, and that only one gc runs at a time."""

import os
import time

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.team.remote_cache.gc import collect
from support.projects.machines import Machine
from support.steps.trivial import action, chain

DAY = 86400


def large(name, size):
    engine = action("large", f"{name}/0", bytes=size)
    return RecipeGraph(name, (engine,), engine.definition_key)


def age(tmp_path, machine, label, days):
    """Let everything of an action's result be so old."""
    digest = machine.digest(label)
    for path in (tmp_path / "shared" / "v1").rglob("*.json"):
        if digest in path.name or digest.encode() in path.read_bytes():
            os.utime(path, (time.time() - days * DAY,) * 2)


def test_the_longest_unused_goes_first_until_the_place_is_small_enough(one, other, tmp_path):
    one.apply(large("a", 1000), large("b", 2000), large("c", 3000))
    for label, days in (("a/0", 3), ("b/0", 2), ("c/0", 1)):
        age(tmp_path, one, label, days)
    assert [item.label for item in collect(one.shared(), max_size=5000, dry_run=True).removed] == ["a/0"]
    other.apply(large("a", 1000))  # a machine that may write says that it used it
    done = collect(one.shared(), max_size=5000)
    assert [item.label for item in done.removed] == ["b/0"]
    assert (done.freed, done.kept, done.kept_size) == (2000, 2, 4000)
    third = Machine(tmp_path / "third", url=one.url)
    assert third.apply(large("a", 1000), large("b", 2000), large("c", 3000)).ran == ("b/0",)
    assert third.notices == []


def test_by_age_and_not_what_is_named(one, tmp_path):
    one.apply(large("a", 1000), large("b", 2000))
    for label in ("a/0", "b/0"):
        age(tmp_path, one, label, 40)
    done = collect(one.shared(), older_than=30 * DAY, keep=[one.digest("a/0")])
    assert [item.label for item in done.removed] == ["b/0"]
    assert collect(one.shared(), older_than=30 * DAY).freed == 1000


def test_contents_that_two_artifacts_share_stay_as_long_as_one_does(one, tmp_path):
    source = action("write", "r/0", text="a")
    engine = action("copy", "r/1", {"x": source})
    one.apply(RecipeGraph("r", (source, engine), engine.definition_key))
    age(tmp_path, one, "r/0", 9)
    collect(one.shared(), keep=[one.digest("r/1")])
    third = Machine(tmp_path / "third", url=one.url)
    assert third.apply(RecipeGraph("r", (source, engine), engine.definition_key)).ran == ("r/0",)
    assert third.notices == []


def test_contents_that_nothing_names_yet_stay_a_day(one, tmp_path):
    one.apply(chain("r"))
    stray = tmp_path / "shared/v1/objects/ab"
    stray.mkdir(exist_ok=True)
    (stray / ("ab" * 32)).write_bytes(b"on its way")
    collect(one.shared(), older_than=DAY)
    assert (stray / ("ab" * 32)).exists()
    os.utime(stray / ("ab" * 32), (time.time() - 2 * DAY,) * 2)
    collect(one.shared(), older_than=DAY)
    assert not (stray / ("ab" * 32)).exists()


def test_one_collects_at_a_time_and_the_lock_of_a_killed_one_does_not_stay(one, tmp_path):
    one.apply(chain("r"))
    lock = tmp_path / "shared/v1/collect.lock"
    lock.write_text("somebody")
    with pytest.raises(MmbuildError, match="another gc is running") as caught:
        collect(one.shared(), max_size=0)
    assert caught.value.code == "MM828"
    os.utime(lock, (time.time() - 7 * 3600,) * 2)
    assert len(collect(one.shared(), max_size=0).removed) == 3
    assert not lock.exists()
