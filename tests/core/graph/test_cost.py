"""What a plan costs: durations from history or estimates, the longest chain, downloads, disk and memory."""

import pytest

from mmbuild.core.graph.action import RecipeGraph, Resources
from mmbuild.core.graph.cost import Duration, cost_of
from mmbuild.core.graph.plan import Verdict
from mmbuild.core.store.action_cache import load_cache
from support.projects.workspace import Workspace
from support.steps.trivial import action


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def timed(name, seconds, inputs=(), **resources):
    producers = {f"x{number}": item for number, item in enumerate(inputs)}
    resources = Resources(seconds=seconds, **resources)
    return action("write", f"r/{name}", producers, text=name, resources=resources)


def cost(workspace, actions, cores=4):
    plan = workspace.plan(RecipeGraph("r", tuple(actions), actions[-1].definition_key))
    return cost_of(plan, load_cache(workspace.store), cores)


def test_actions_that_do_not_wait_for_each_other_take_as_long_as_the_longest_chain(workspace):
    a, b = timed("a", 10), timed("b", 30)
    assert cost(workspace, [a, b, timed("end", 5, (a, b))]).seconds == 35


def test_few_cores_take_as_long_as_the_work(workspace):
    parts = [timed(f"p{number}", 10, cores=2) for number in range(6)]
    assert cost(workspace, [*parts, timed("end", 1, parts)], cores=2).seconds == pytest.approx(60.5)


def test_sizes_add_up_and_memory_is_that_of_the_largest(workspace):
    a = timed("a", 1, download=7, disk=20, memory=3, gpu_memory=5)
    b = timed("b", 1, (a,), download=1, disk=2, memory=9, gpu_memory=1)
    found = cost(workspace, [a, b])
    assert (found.download, found.disk, found.memory, found.gpu_memory) == (8, 22, 9, 5)


def test_what_was_built_before_is_free_and_what_changed_is_timed_by_history(workspace):
    a = timed("a", 100)
    b = timed("b", 1000, (a,))
    graph = RecipeGraph("r", (a, b), b.definition_key)
    workspace.apply(graph)
    done = cost_of(workspace.plan(graph), load_cache(workspace.store), 1)
    assert (done.actions, done.seconds, done.text()) == ({}, 0.0, "")
    other = timed("other", 100)
    again = timed("b", 1000, (other,))
    durations = cost(workspace, [other, again]).actions
    assert durations[other.definition_key] == Duration(100, measured=False)
    measured = durations[again.definition_key]
    assert measured.measured
    assert measured.seconds < 100


def test_another_build_with_the_same_parameters_says_nothing_of_what_depends_on_inputs(workspace):
    """Quantizing the demo takes a second, and a 7B model minutes."""
    small = timed("a", 100)
    workspace.apply(
        RecipeGraph("r", (small, timed("b", 1000, (small,))), timed("b", 1000, (small,)).definition_key)
    )
    resources = Resources(seconds=1000, disk=7)
    source = action("write", "large/a", text="large", resources=resources)
    same = action("write", "large/b", {"x0": source}, text="b", resources=resources)
    plan = workspace.plan(RecipeGraph("large", (source, same), same.definition_key))
    verdicts = {planned.action.label: planned.verdict for planned in plan.actions}
    assert verdicts == {"large/a": Verdict.RUN, "large/b": Verdict.RUN}
    found = cost_of(plan, load_cache(workspace.store), 4)
    assert found.actions[same.definition_key] == Duration(1000, measured=False)
    assert found.disk == 14


def test_sizes_and_peaks_that_were_measured_replace_the_estimates(workspace):
    estimate = {"disk": 10**9, "memory": 10**9}
    producer = timed("a", 1)
    first = timed("b", 1000, (producer,), **estimate)
    workspace.apply(RecipeGraph("r", (producer, first), first.definition_key))
    (record,) = [one for one in load_cache(workspace.store).by_key.values() if one.label == "r/b"]
    other = timed("other", 100, disk=5)
    again = cost(workspace, [other, timed("b", 1000, (other,), **estimate)])
    assert (again.disk, again.memory) == (5 + record.size, record.memory)
    assert 0 < record.size < 10**9
    assert 0 < record.memory < 10**9
    assert (again.reserved, again.largest) == (10**9, "r/b"), "apply still reserves the estimate"


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (Duration(0.2, measured=True), "<1 s"),
        (Duration(41.7, measured=True), "42 s"),
        (Duration(41.7, measured=False), "~42 s"),
        (Duration(600, measured=False), "~10 min"),
    ],
)
def test_estimates_are_marked(duration, text):
    assert str(duration) == text


def test_the_text_says_what_it_is_based_on(workspace):
    text = cost(
        workspace, [timed("a", 120, download=13_500_000_000, disk=27_000_000_000, memory=2_000_000_000)]
    ).text()
    assert text == (
        "takes about 2 min (estimated)\n"
        "downloads 13.5 GB, writes 27.0 GB, one action takes up to 2.0 GB of memory"
    )
