"""The time that an apply has left, from the estimates of its plan and the progress of what runs."""

from dataclasses import replace

import pytest

from mmbuild.core.execution.time_left import time_left
from mmbuild.core.graph.action import RecipeGraph, Resources
from support.projects.workspace import Workspace
from support.steps.trivial import action, chain


def timed(name, seconds, inputs=()):
    producers = {f"x{number}": item for number, item in enumerate(inputs)}
    return action("write", f"r/{name}", producers, text=name, resources=Resources(seconds=seconds))


@pytest.fixture
def estimate(tmp_path):
    """Two actions side by side, 10 and 30 s, and one of 5 s after both, on four cores."""
    a, b = timed("a", 10), timed("b", 30)
    end = timed("end", 5, (a, b))
    plan = Workspace(tmp_path).plan(RecipeGraph("r", (a, b, end), end.definition_key))
    return replace(time_left(plan), cores=4)


def test_nothing_has_started(estimate):
    assert estimate.seconds((), {}) == 35


def test_running_actions_take_what_is_left_of_their_estimate(estimate):
    assert estimate.seconds({"r/a"}, {"r/b": (12.0, None)}) == 23


def test_progress_of_an_action_is_better_than_its_estimate(estimate):
    assert estimate.seconds({"r/a"}, {"r/b": (12.0, 40.0)}) == 45


def test_it_is_unknown_if_an_action_takes_longer_than_estimated(estimate):
    assert estimate.seconds({"r/a"}, {"r/b": (31.0, None)}) is None


def test_a_plan_without_estimates_has_none(tmp_path):
    assert time_left(Workspace(tmp_path).plan(chain("r"))) is None


def test_a_plan_that_ran_before_has_measured_ones(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.apply(chain("r"))
    again = action("write", "r/0", text="a")
    other = action("write", "s/1", {"text": again}, text="a1")
    graph = RecipeGraph("s", (again, other), other.definition_key)
    found = time_left(workspace.plan(graph, chain("t", text="b")))
    assert found is None or all(seconds > 0 for seconds in found.durations.values())
