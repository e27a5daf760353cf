"""Reasons: the first difference in one sentence."""

import pytest

from mmbuild.core.graph.keys import make_action
from mmbuild.core.graph.rebuild_reasons import definition_of, difference

BASE = {
    "step": "convert",
    "version": "1",
    "params": {"dtype": "float16", "lengths": {"input": 10}},
    "target": {"sm": 90},
    "toolchain": {"torch": "2.12"},
    "inputs": {"model": "a" * 64},
    "sources": {"config.json": "b" * 64},
}


def reason_for(**changes):
    earlier = definition_of(make_action(label="x", **BASE))
    return difference(earlier, definition_of(make_action(label="x", **{**BASE, **changes})))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"params": {"dtype": "bfloat16", "lengths": {"input": 10}}},
            "parameter `dtype` changed from float16 to bfloat16",
        ),
        (
            {"params": {"dtype": "float16", "lengths": {"input": 20}}},
            "parameter `lengths.input` changed from 10 to 20",
        ),
        ({"params": {"lengths": {"input": 10}}}, "parameter `dtype` was removed"),
        ({"params": {**BASE["params"], "seed": 1}}, "parameter `seed` was added: 1"),
        ({"target": {"sm": 89}}, "target `sm` changed from 90 to 89"),
        ({"toolchain": {"torch": "2.13"}}, "version of `torch` changed from 2.12 to 2.13"),
        ({"sources": {"config.json": "c" * 64}}, "source `config.json` changed"),
        ({"inputs": {"model": "c" * 64}}, "input `model` changed"),
        ({"version": "2"}, "step `convert` changed from version 1 to 2"),
        ({"step": "quantize"}, "step changed from convert to quantize"),
        ({"version": "2", "target": {"sm": 89}}, "step `convert` changed from version 1 to 2 (and 1 more)"),
    ],
)
def test_a_difference_is_named(changes, sentence):
    assert reason_for(**changes) == sentence


def test_long_values_are_cut():
    assert len(reason_for(params={"dtype": "x" * 500, "lengths": {"input": 10}})) < 140


def test_an_int_that_became_a_float_is_a_difference():
    assert "10 to 10.0" in reason_for(params={"dtype": "float16", "lengths": {"input": 10.0}})


def commands(*argv, **more):
    return {
        "commands": [{"name": "clone", "argv": ["git", "clone"]}, {"name": "build", "argv": [*argv], **more}]
    }


@pytest.mark.parametrize(
    ("earlier", "now", "sentence"),
    [
        (
            commands("trtllm-build", "--max_batch_size", "1", "--x"),
            commands("trtllm-build", "--max_batch_size", "4", "--x"),
            "parameter `commands.build.argv.--max_batch_size` changed from 1 to 4",
        ),
        (
            commands("trtllm-build", "--fused=enable"),
            commands("trtllm-build", "--tp", "2", "--fused=enable"),
            "parameter `commands.build.argv.--tp` was added: 2",
        ),
        (
            commands("python", "a.py", "--scale", "-1.5"),
            commands("python", "b.py", "--scale", "-1.5"),
            "parameter `commands.build.argv.words` changed from python a.py to python b.py",
        ),
        (
            commands("x", expected={"ranks": 1}),
            commands("x", expected={"ranks": 2}),
            "parameter `commands.build.expected.ranks` changed from 1 to 2",
        ),
        ({"layers": [1, 2]}, {"layers": [1, 3]}, "parameter `layers` changed from [1, 2] to [1, 3]"),
    ],
)
def test_of_commands_the_option_is_named(earlier, now, sentence):
    before = definition_of(make_action(label="x", **{**BASE, "params": earlier}))
    assert difference(before, definition_of(make_action(label="x", **{**BASE, "params": now}))) == sentence


def test_options_in_another_order_are_a_change_that_is_not_named():
    one, other = commands("x", "--a", "1", "--b", "2"), commands("x", "--b", "2", "--a", "1")
    before = definition_of(make_action(label="x", **{**BASE, "params": one}))
    told = difference(before, definition_of(make_action(label="x", **{**BASE, "params": other})))
    assert told == "its definition changed"
