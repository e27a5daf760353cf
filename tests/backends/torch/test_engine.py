"""Engines give transformers' greedy tokens, whatever the shapes, the batch and the weights' precision."""

import json

import pytest
import torch

from mmbuild.backends.comparison import is_tie
from mmbuild.backends.torch.parity import compare
from mmbuild.models.families.reference import continue_greedily, load_reference
from support.engines.loaded import (
    DEMO,
    demo_engine,
    demo_reference,
    drawn,
    random_engine,
    random_model,
    random_requests,
)
from support.models.references import rounded

pytestmark = pytest.mark.slow

TOKENS = 32
SEEDS = (2, 3, 5, 11)


def demo_requests(engine, seed, count):
    """Questions of different lengths about different pictures."""
    pairs = drawn(seed, count)
    prompts = ["how many ?", "describe the picture .", "what colour are the shapes ?"]
    return engine.encode([picture for picture, _ in pairs], prompts[:count])


def test_the_random_models_cover_what_they_should():
    configs = [json.loads((random_model(seed) / "config.json").read_text()) for seed in SEEDS]
    texts = [config["text_config"] for config in configs]
    groups = {text["num_attention_heads"] // text["num_key_value_heads"] for text in texts}
    assert {1, 2, 3} == groups
    assert {config["tie_word_embeddings"] for config in configs} == {True, False}
    assert {config["vision_feature_select_strategy"] for config in configs} == {"default", "full"}
    assert {config["vision_feature_layer"] for config in configs} == {-1, -2}
    assert len({config["vision_config"]["image_size"] for config in configs}) >= 3
    assert any(text["head_dim"] * text["num_attention_heads"] != text["hidden_size"] for text in texts)


# A LLaMA of random shapes is compiled for VILA too: test_families.py.
@pytest.mark.extended
@pytest.mark.parametrize("seed", SEEDS)
def test_random_shapes_give_the_reference_s_tokens_alone_and_in_a_batch(seed):
    engine = random_engine(seed)
    reference = load_reference("llava", {"model": random_model(seed)}, "float32", "cpu")
    requests = random_requests(engine, [3, 9, 1], seed)
    expected = [continue_greedily(reference, request, TOKENS).tokens for request in requests]
    assert len(set(expected)) == 3, "the prompts must lead to different answers"
    stopping = engine.stopping(TOKENS, ignore_eos=True)
    batch = engine.run(requests, stopping).answers
    alone = [engine.run([request], stopping).answers[0] for request in requests]
    assert [answer.token_ids for answer in batch] == expected
    assert [answer.token_ids for answer in alone] == expected


@pytest.mark.parametrize("batch", [1, 3])
def test_the_demo_model_gives_the_reference_s_tokens(batch):
    engine = demo_engine()
    requests = demo_requests(engine, 5, batch)
    expected = [continue_greedily(demo_reference(), request, TOKENS).tokens for request in requests]
    answers = engine.run(requests, engine.stopping(TOKENS, ignore_eos=True)).answers
    assert [answer.token_ids for answer in answers] == expected


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.extended)])
def test_half_precision_parts_from_the_reference_only_where_rounding_decides(dtype):
    engine = demo_engine(dtype)
    for request in demo_requests(engine, 7, 2):
        reference = continue_greedily(demo_reference(dtype), request, TOKENS)
        compared = compare(engine, request, reference)
        assert compared.difference is None or is_tie(compared.difference, dtype), compared
        assert compared.top1_agreement >= 0.9


def test_two_pictures_lead_to_two_continuations():
    engine = demo_engine()
    first, second = (picture for picture, _ in drawn(5, 2))
    prompt = "describe the picture ."
    one, other = engine.generate([first, second], [prompt, prompt])
    assert one.text != other.text


@pytest.mark.parametrize(("quantization", "levels"), [("int8", 128), ("int4", 8)])
def test_a_weight_only_engine_gives_the_tokens_of_transformers_on_rounded_weights(quantization, levels):
    engine = demo_engine("float32", quantization)
    reference = load_reference("llava", {"model": DEMO}, "float32", "cpu")
    plain = continue_greedily(reference, demo_requests(engine, 9, 1)[0], TOKENS)
    with rounded(reference, "language_model.layers", levels):
        for request in demo_requests(engine, 9, 3):
            compared = compare(engine, request, continue_greedily(reference, request, TOKENS))
            assert compared.engine_tokens == compared.reference_tokens
            assert compared.max_kl < 1e-5
        coarse = continue_greedily(reference, demo_requests(engine, 9, 1)[0], TOKENS)
    assert not torch.equal(plain.logits, coarse.logits), "rounding must matter for this test to say anything"


def test_a_batch_answers_each_prompt_as_if_it_were_alone():
    engine = demo_engine("float16")
    requests = demo_requests(engine, 11, 3)
    together = engine.run(requests, engine.stopping()).answers
    alone = [engine.run([request], engine.stopping()).answers[0] for request in requests]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_what_an_earlier_batch_left_in_the_caches_is_out_of_sight():
    engine = demo_engine()
    short, long = random_requests(engine, [2, 30], 3)
    fresh = engine.run([short], engine.stopping(8, ignore_eos=True)).answers
    engine.run([long, long, long], engine.stopping(40, ignore_eos=True))
    assert engine.run([short], engine.stopping(8, ignore_eos=True)).answers == fresh


def test_prompts_without_an_image_are_answered_like_the_reference():
    engine = demo_engine()
    request, with_image = [*engine.encode([[]], ["how many shapes ?"]), *demo_requests(engine, 5, 1)]
    assert request.pixels.numel() == 0
    expected = [continue_greedily(demo_reference(), item, TOKENS).tokens for item in (request, with_image)]
    answers = engine.run([request, with_image], engine.stopping(TOKENS, ignore_eos=True)).answers
    assert [answer.token_ids for answer in answers] == expected


def test_a_profile_counts_tokens_and_steps():
    engine = demo_engine()
    requests = demo_requests(engine, 5, 2)
    generation = engine.run(requests, engine.stopping(10, ignore_eos=True))
    profile = generation.profile
    assert profile.new_tokens == 20
    assert profile.steps == 9
    assert profile.prompt_tokens == sum(len(request.ids) for request in requests)
    assert min(profile.visual_seconds, profile.prefill_seconds, profile.decode_seconds) > 0
    assert profile.peak_bytes > engine.session.weight_bytes


def test_finding_the_end_is_a_step_too():
    engine = demo_engine()
    (picture, _), *_ = drawn(5, 1)
    (request,) = engine.encode([picture], ["how many ?"])
    generation = engine.run([request], engine.stopping())
    assert generation.profile.new_tokens == 1
    assert generation.profile.steps == 1
