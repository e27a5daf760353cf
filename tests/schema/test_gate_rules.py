"""Findings on gates."""

import pytest

from support.projects.recipe_project import RECIPE, codes, load, only, pointed

VERIFIED = RECIPE + "verify:\n  max_new_tokens: 8\n"


def test_gates_with_questions_are_fine(tmp_path):
    result = load(tmp_path, VERIFIED + "gates:\n  max_kl: 0.1\n  min_greedy_prefix: 8\n")
    assert codes(result) == []
    assert len(result.variants) == 1


def test_gates_that_nothing_judges_are_refused_at_their_key(tmp_path):
    found = only(load(tmp_path, RECIPE + "gates:\n  max_kl: 0.1\n"))
    assert (found.code, found.severity, pointed(found)) == ("MM592", "error", "gates")


def test_gates_of_tensorrt_llm_are_refused(tmp_path):
    found = only(load(tmp_path, VERIFIED + "gates: {max_kl: 0.1}\n", "engine.backend=tensorrt-llm"))
    assert (found.code, found.severity) == ("MM593", "error")


@pytest.mark.parametrize(
    ("override", "told"), [("verify.max_new_tokens=5", "5 tokens"), ("engine.max_output_len=4", "4 tokens")]
)
def test_a_prefix_longer_than_what_is_compared_is_refused(tmp_path, override, told):
    found = only(load(tmp_path, VERIFIED + "gates:\n  min_greedy_prefix: 8\n", override))
    assert (found.code, pointed(found)) == ("MM594", "8")
    assert told in found.message


def test_gates_on_random_weights_are_warned_of(tmp_path):
    recipe = VERIFIED.replace("source: model", "source: dummy://./model") + "gates: {max_kl: 0.1}\n"
    found = only(load(tmp_path, recipe))
    assert (found.code, found.severity) == ("MM595", "warning")
