"""Machine requirements of jobs, and runner labels."""

from __future__ import annotations

import pytest

from mmbuild.base.errors import UsageError
from mmbuild.core.graph.action import Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.team.ci.runners import GIB, GITHUB, Machine, labels, machine_for, parse_runners


def action(target=None, **resources):
    return make_action(
        label="a/b", step="s", version="1", params={}, target=target or {}, resources=Resources(**resources)
    )


@pytest.mark.parametrize(
    ("memory", "gib"), [(0, 1), (GIB, 1), (GIB + 1, 2), (3 * GIB, 4), (9 * GIB, 16), (16 * GIB, 16)]
)
def test_memory_is_the_largest_actions_in_powers_of_two(memory, gib):
    assert machine_for([action(memory=1), action(memory=memory)]) == Machine(0, None, gib)


def test_gpus_are_the_most_at_once_with_their_capability():
    found = machine_for(
        [action({"sm": 80}), action({"sm": 90}, gpus=1), action({"sm": 90}, gpus=2, memory=5 * GIB)]
    )
    assert (found, found.kind) == (Machine(2, 90, 8), "gpu")


def test_labels_are_filled_in_and_unknown_facts_left_out():
    runners = parse_runners(["gpu=big,sm{sm},x{gpus},m{memory_gib}"], GITHUB)
    assert labels(Machine(2, 90, 32), runners) == ["big", "sm90", "x2", "m32"]
    assert labels(Machine(1, None, 4), runners) == ["big", "x1", "m4"]
    assert labels(Machine(0, None, 4), runners) == ["ubuntu-latest"]


@pytest.mark.parametrize("text", ["gpu", "tpu=a", "cpu=", "cpu=,", "gpu=sm{sn}", "gpu=sm{sm", "gpu=a{}"])
def test_labels_that_mean_nothing_are_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_runners([text], GITHUB)
    assert caught.value.code == "MM815"
    assert text in caught.value.message
