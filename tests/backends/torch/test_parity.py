"""How far an engine is from its reference."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.comparison import TIE, TokenDifference, is_tie, kl_divergence
from mmbuild.backends.torch.parity import compare
from mmbuild.models.errors import EngineError
from mmbuild.models.families.reference import answer_greedily, continue_greedily
from support.engines.loaded import demo_engine, demo_reference, drawn
from support.errors import refused

LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


@given(LOGITS, LOGITS)
def test_kl_is_what_its_definition_says(p, q):
    one, other = torch.tensor([p]), torch.tensor([q])
    weights = one.double().softmax(-1)
    expected = (weights * (weights.log() - other.double().softmax(-1).log())).sum()
    assert kl_divergence(one, other).item() == pytest.approx(expected.item(), abs=1e-4, rel=1e-4)


@given(LOGITS, st.floats(-10, 10, width=32))
def test_kl_is_0_for_logits_that_differ_by_a_constant(p, shift):
    assert kl_divergence(torch.tensor([p]), torch.tensor([p]) + shift).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("dtype", TIE)
def test_a_tie_is_a_margin_within_rounding(dtype):
    def margin(value):
        return TokenDifference(0, 1, 2, (3.0, 3.0 - value), (3.0, 3.1))

    assert is_tie(margin(0.0), dtype)
    assert is_tie(margin(TIE[dtype] * 0.9), dtype)
    assert not is_tie(margin(TIE[dtype] * 1.1), dtype)


@pytest.fixture
def asked():
    """An engine, a request and the reference's continuation of 12 tokens."""
    (picture, _), *_ = drawn(3, 1)
    (request,) = demo_engine().encode([picture], ["describe the picture ."])
    return demo_engine(), request, continue_greedily(demo_reference(), request, 12)


@pytest.mark.slow
def test_an_exact_engine_has_no_difference(asked):
    compared = compare(*asked)
    assert compared.difference is None
    assert compared.equal_prefix == 12
    assert compared.top1_agreement == 1.0
    assert compared.max_kl < 1e-5


def changed(reference, place, token):
    tokens = (*reference.tokens[:place], token, *reference.tokens[place + 1 :])
    return replace(reference, tokens=tokens)


@pytest.mark.slow
def test_the_first_difference_is_shown_with_both_sides_logits(asked):
    engine, request, reference = asked
    place = 4
    other = (reference.tokens[place] + 1) % engine.config.vocab_size
    compared = compare(engine, request, changed(reference, place, other))
    assert compared.equal_prefix == place
    found = compared.difference
    assert (found.position, found.reference_token, found.engine_token) == (
        place,
        other,
        reference.tokens[place],
    )
    expected = reference.logits[place, [other, reference.tokens[place]]].tolist()
    assert found.reference_logits == pytest.approx(expected, abs=1e-4)
    assert found.engine_logits == pytest.approx(expected, abs=1e-3)
    assert found.reference_margin < 0


@pytest.mark.slow
def test_an_answer_is_compared_up_to_its_end_token(asked):
    engine, request, _ = asked
    reference = answer_greedily(demo_reference(), request, 12)
    compared = compare(engine, request, reference, engine.stopping(12))
    assert compared.difference is None
    assert len(compared.kl) == len(reference.tokens) < 12
    assert compared.engine_tokens[-1] in engine.description.eos_token_ids


@pytest.mark.slow
def test_an_engine_that_does_not_end_differs_where_the_reference_ended(asked):
    engine, request, _ = asked
    reference = answer_greedily(demo_reference(), request, 12)
    compared = compare(engine, request, reference, engine.stopping(12, ignore_eos=True))
    found = compared.difference
    assert (found.position, found.reference_token) == (len(reference.tokens), None)
    assert found.engine_token is not None
    assert not is_tie(found, "bfloat16")


@pytest.mark.slow
def test_an_engine_that_ends_too_early_differs_there(asked):
    engine, request, reference = asked
    stopping = replace(engine.stopping(12), eos_token_ids=(reference.tokens[2],))
    found = compare(engine, request, reference, stopping).difference
    assert (found.position, found.engine_token) == (reference.tokens.index(reference.tokens[2]) + 1, None)
    assert not is_tie(found, "bfloat16")


@pytest.mark.slow
def test_the_reference_keeps_its_settings_when_nothing_may_end_its_answer(asked):
    _, request, reference = asked
    assert len(reference.tokens) == 12
    ends = demo_reference().generation_config.eos_token_id
    assert ends in answer_greedily(demo_reference(), request, 12).tokens


@pytest.mark.slow
def test_a_question_that_transformers_cannot_answer_has_its_own_error(asked):
    engine, request, _ = asked
    beyond = replace(request, ids=(*request.ids, engine.config.vocab_size + 3))
    error = refused(EngineError, "MM599", answer_greedily, demo_reference(), beyond, 3)
    assert "IndexError" in error.message
