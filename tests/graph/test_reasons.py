"""Reasons: the first difference in one sentence."""

import pytest

from mmbuild.graph.keys import make_action
from mmbuild.graph.reasons import definition_of, difference

BASE = {
    "step": "convert",
    "version": "1",
    "params": {"dtype": "float16", "lengths": {"input": 10}},
    "target": {"sm": 90},
    "toolchain": {"torch": "2.12"},
    "inputs": {"model": "a" * 64},
    "sources": {"config.json": "b" * 64},
}


def told(**changes):
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
    assert told(**changes) == sentence


def test_long_values_are_cut():
    assert len(told(params={"dtype": "x" * 500, "lengths": {"input": 10}})) < 140


def test_an_int_that_became_a_float_is_a_difference():
    assert "10 to 10.0" in told(params={"dtype": "float16", "lengths": {"input": 10.0}})
