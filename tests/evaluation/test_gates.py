"""Each gate fires and stays silent, and says what it is of."""

import math

import pytest

from mmbuild.evaluation import gates
from mmbuild.evaluation.bounds import NAMES, bounds, defaults, usual_bounds
from mmbuild.evaluation.gates import GateError
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
from mmbuild.schema.model import Algorithm, Gates
from support import reports
from support.errors import refused
from support.reports import question


def verdicts(questions, **stated):
    return gates.gate_verdicts(gates.measure_quantities(questions), bounds("none", stated))


def fails(questions, **stated):
    found = verdicts(questions, **stated)
    return refused(GateError, "MM590", gates.require, found).message


AGREE, DIFFER = question(0.0), question(0.0, answers=("two", "three"))


@pytest.mark.parametrize(
    ("questions", "passing", "failing"),
    [
        ([AGREE, AGREE, AGREE, DIFFER], {"min_answer_agreement": 0.75}, {"min_answer_agreement": 0.76}),
        ([question(0.1), question(0.3)], {"max_kl": 0.2001}, {"max_kl": 0.1999}),
        (
            [question(0.0, lost=math.log(1.2)), question(0.0, lost=math.log(1.2))],
            {"max_perplexity_ratio": 1.2001},
            {"max_perplexity_ratio": 1.1999},
        ),
        (
            [question(0.0, prefix=1), question(0.0, prefix=0)],
            {"min_greedy_prefix": 0},
            {"min_greedy_prefix": 1},
        ),
    ],
)
def test_a_gate_passes_within_its_bound_and_fails_beyond(questions, passing, failing):
    gates.require(verdicts(questions, **passing))
    message = fails(questions, **failing)
    ((name, bound),) = failing.items()
    assert name in message
    assert gates.number(bound) in message
    assert "too much" in message or "too little" in message


def test_only_failed_gates_are_reported():
    message = fails(
        [question(0.5, lost=0.5)] * 3, max_kl=0.1, max_perplexity_ratio=1.1, min_answer_agreement=0.5
    )
    assert "max_kl: mean KL over the answers 0.5 nats, at most 0.1, 0.4 too much (3 questions" in message
    assert "max_perplexity_ratio: perplexity ratio 1.649, at most 1.1, 0.5487 too much" in message
    assert "min_answer_agreement" not in message


def test_an_answer_that_is_equal_to_its_end_counts_for_the_whole_length():
    one = question(0.01, lost=0.01, prefix=2, tokens=2, requested=30)
    found = gates.measure_quantities([one])
    assert found["max_kl"]["value"] == pytest.approx(0.01)
    assert found["max_perplexity_ratio"]["value"] == pytest.approx(math.exp(0.01))
    assert found["min_greedy_prefix"]["value"] == 30


def test_a_token_weighs_the_same_in_a_long_answer_and_in_a_short_one():
    short, long = question(1.0, tokens=1), question(0.0, tokens=3)
    assert gates.measure_quantities([short, long])["max_kl"]["value"] == pytest.approx(0.25)


def test_a_bound_within_the_noise_is_not_settled_and_the_hint_asks_for_more():
    found = verdicts([question(0.0), question(0.5), question(0.1)], max_kl=0.1)
    assert (found[0]["passed"], found[0]["settled"]) == (False, False)
    assert "too few questions to settle max_kl" in refused(GateError, "MM590", gates.require, found).hint


def test_a_bound_far_from_all_is_settled():
    found = verdicts([question(5.0), question(5.5), question(6.0)], max_kl=0.1)
    assert (found[0]["passed"], found[0]["settled"]) == (False, True)
    assert "too few" not in refused(GateError, "MM590", gates.require, found).hint


def test_one_question_is_evaluated_and_reported_as_too_few():
    (verdict,) = verdicts([question(0.5)], max_kl=0.1)
    assert (verdict["passed"], verdict["settled"]) == (False, False)
    assert "1 question, too few for an interval" in gates.describe(verdict)


def test_a_loss_beyond_every_float_still_has_a_value():
    assert gates.measure_quantities([question(1.0, lost=1e5)])["max_perplexity_ratio"]["value"] > 1e300


def test_gates_of_recipes_are_those_that_are_evaluated():
    assert set(Gates.model_fields) == set(NAMES) == set(gates.QUANTITIES)


def test_every_quantization_has_defaults_that_name_real_gates():
    assert set(defaults()) == {str(one) for one in Algorithm} - {"none"}
    for usual in defaults().values():
        Gates(**usual)
        assert usual["max_kl"] == pytest.approx(math.log(usual["max_perplexity_ratio"]), rel=0.05)


def test_a_stated_gate_replaces_its_default_alone():
    found = bounds("int4", {"max_kl": 0.5, "min_greedy_prefix": None})
    assert found == {
        "max_kl": {"bound": 0.5, "origin": "recipe"},
        "max_perplexity_ratio": {"bound": 1.06, "origin": "default"},
    }


def test_defaults_are_not_for_random_weights_nor_for_unquantized_ones():
    assert bounds("int4", {}, dummy=True) == bounds("none", {}) == usual_bounds(None) == {}
    assert bounds("int4", {"max_kl": 1.0}, dummy=True).keys() == {"max_kl"}


def test_an_engine_without_a_recipe_gets_the_defaults_of_its_precision():
    assert usual_bounds("W4A16") == bounds("int4", {})
    assert usual_bounds("W8A16") == bounds("int8", {})
    assert {usual_bounds(how.quant_algo)["max_kl"]["bound"] for how in ALGORITHMS.values()} == {
        0.03,
        0.02,
        0.015,
    }


def test_made_up_measures_have_what_real_ones_have():
    real = {"reference", "description", "pictures", "conversions", "max_new_tokens", "summary", "questions"}
    assert set(reports.measures([0.1])) == real
