"""Shards: every action covered, inputs available, the same split everywhere, and a makespan within bounds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.core.graph.action import Resources
from mmbuild.core.graph.durations import estimated_seconds
from mmbuild.core.graph.keys import make_action
from mmbuild.team.ci.jobs import union_of
from mmbuild.team.ci.shards import plan_shards
from support.projects.variants import variant, variants

COUNTS = st.integers(1, 5)
AT_ONCE = st.integers(1, 3)


def times(found):
    union = union_of([one.graph for one in found])
    return {key: estimated_seconds(action) for key, action in union.actions.items()}


def alone(one, seconds):
    return sum(seconds[key] for key in {action.definition_key for action in one.graph.actions})


def single(name, seconds):
    """A variant with one action besides its assemble, which takes 1 s."""
    action = make_action(
        label=f"{name}/build",
        step="s",
        version="1",
        params={"n": name},
        resources=Resources(seconds=seconds - 1),
    )
    return variant(name, {action.definition_key: action}, [action.definition_key])


@given(variants(), COUNTS, AT_ONCE)
def test_every_variant_is_in_one_shard_with_all_that_it_is_made_from(found, count, at_once):
    result = plan_shards(found, times(found), count, at_once)
    assert sorted(name for shard in result.shards for name in shard.variants) == sorted(
        one.name for one in found
    )
    assert len(result.shards) == count
    for shard in result.shards:
        members = [one.graph for one in found if one.name in shard.variants]
        assert set(shard.actions) == set(union_of(members).actions)
        seen = set()
        for key in shard.actions:
            assert set(union_of(members).actions[key].inputs.values()) <= seen
            seen.add(key)


@given(variants(), COUNTS)
def test_actions_of_several_shards_are_reported_with_them(found, count):
    result = plan_shards(found, times(found), count)
    for key in union_of([one.graph for one in found]).actions:
        places = tuple(at for at, shard in enumerate(result.shards) if key in shard.actions)
        assert result.repeated.get(key, places if len(places) == 1 else ()) == places


@given(variants(), COUNTS, AT_ONCE, st.randoms())
def test_the_cut_follows_from_recipes_and_times_alone(found, count, at_once, shuffler):
    result = plan_shards(found, times(found), count, at_once)
    assert plan_shards(list(found), times(found), count, at_once) == result
    mixed = list(found)
    shuffler.shuffle(mixed)
    again = plan_shards(mixed, times(mixed), count, at_once)
    assert [shard.variants for shard in again.shards] == [shard.variants for shard in result.shards]


@given(variants(), COUNTS)
def test_the_makespan_is_within_its_bounds(found, count):
    """Above: what placing the largest first guarantees, each with its own copy of what it shares."""
    seconds = times(found)
    result = plan_shards(found, seconds, count)
    costs = [alone(one, seconds) for one in found]
    assert result.makespan >= result.bound - 1e-6
    assert result.bound >= max(result.critical, result.total / count) - 1e-6
    assert result.makespan <= sum(costs) / count + max(costs) + 1e-6
    if count == 1:
        assert result.makespan == pytest.approx(result.total)
        assert not result.repeated


@given(variants(), COUNTS, st.integers(2, 4))
def test_machines_that_run_several_actions_at_once_are_scheduled(found, count, at_once):
    seconds = times(found)
    result = plan_shards(found, seconds, count, at_once)
    assert result.makespan >= result.bound - 1e-6
    for shard in result.shards:
        work = sum(seconds[key] for key in shard.actions)
        assert (
            shard.seconds <= result.critical + (work - min(work, result.critical)) / at_once + result.critical
        )


@given(st.lists(st.integers(2, 50), min_size=1, max_size=8), st.integers(1, 3))
def test_without_anything_shared_the_cut_is_as_good_as_largest_first(lengths, count):
    """Graham 1969: at most 4/3 - 1/(3 N) of the best, which is found by trying all."""
    found = [single(f"v{number}", float(length)) for number, length in enumerate(lengths)]
    result = plan_shards(found, times(found), count)
    assert result.makespan <= (4 / 3 - 1 / (3 * count)) * best(lengths, count) + 1e-6


def best(lengths, count):
    """The shortest makespan there is."""
    loads = {(0,) * count}
    for length in lengths:
        loads = {
            tuple(sorted((*load[:at], load[at] + length, *load[at + 1 :])))
            for load in loads
            for at in range(count)
        }
    return min(max(load) for load in loads)


def test_variants_of_one_model_stay_together_where_that_costs_no_time():
    found = []
    for model in ("a", "b", "c"):
        base = make_action(
            label=f"{model}/download",
            step="download",
            version="1",
            params={"m": model},
            resources=Resources(seconds=60),
        )
        pool = {base.definition_key: base}
        found += [variant(f"{model}-{number}", pool, [base.definition_key]) for number in range(4)]
    random.Random(3).shuffle(found)
    result = plan_shards(found, times(found), 3)
    assert result.repeated == {}
    assert {frozenset(name[0] for name in shard.variants) for shard in result.shards} == {
        frozenset("a"),
        frozenset("b"),
        frozenset("c"),
    }
    assert result.makespan == result.bound == 64


def test_a_shared_action_is_repeated_where_waiting_would_take_longer():
    base = make_action(
        label="m/download", step="download", version="1", params={}, resources=Resources(seconds=5)
    )
    pool = {base.definition_key: base}
    found = []
    for number in range(4):
        work = make_action(
            label=f"m{number}/build",
            step="s",
            version="1",
            params={"n": number},
            inputs={"model": base.definition_key},
            resources=Resources(seconds=100),
        )
        found.append(variant(f"m{number}", {**pool, work.definition_key: work}, [work.definition_key]))
    result = plan_shards(found, times(found), 2)
    assert result.repeated == {base.definition_key: (0, 1)}
    assert result.makespan == 207


def test_shards_beyond_the_variants_are_empty():
    result = plan_shards([single("a", 5.0)], times([single("a", 5.0)]), 3)
    assert [shard.variants for shard in result.shards] == [("a",), (), ()]
    assert plan_shards([], {}, 2).makespan == 0
