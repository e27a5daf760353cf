"""What a BLIP-2 config.json means, against transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Blip2Config, OPTConfig, T5Config
from transformers.activations import ACT2FN
from transformers.models.opt.modeling_opt import OPTDecoder
from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration

from mmbuild.models.families import FamilyError, ModelFacts, family
from mmbuild.models.families.blip2 import opt as blip2_opt
from mmbuild.models.families.blip2 import t5 as blip2_t5
from support.models import tiny_families as tiny

SEEDS = range(6)
RECORDED = Path(blip2_opt.__file__).parents[1] / "recorded"


def whole(config: Blip2Config, *, diff: bool = False) -> dict[str, Any]:
    return json.loads(json.dumps(config.to_diff_dict() if diff else config.to_dict()))


@pytest.mark.parametrize("diff", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_opt_is_the_module_that_transformers_makes_of_it(seed: int, diff: bool) -> None:
    config = tiny.blip2_config(seed, tiny.opt_config(seed))
    text = config.text_config
    llm = blip2_opt.facts(whole(config, diff=diff)).llm
    module = OPTDecoder(text)
    layer = module.layers[0]
    assert llm.architecture == "OPTForCausalLM"
    assert (llm.vocab_size, llm.hidden_size) == tuple(module.embed_tokens.weight.shape)
    assert llm.num_hidden_layers == len(module.layers)
    assert (llm.num_attention_heads, llm.head_size) == (layer.self_attn.num_heads, layer.self_attn.head_dim)
    assert llm.intermediate_size == layer.fc1.out_features
    assert (
        llm.max_position_embeddings == module.embed_positions.num_embeddings - module.embed_positions.offset
    )
    assert llm.norm_epsilon == layer.final_layer_norm.eps
    assert llm.has_model_final_layernorm == (module.final_layer_norm is not None)
    assert llm.layernorm_position == ("pre_layernorm" if layer.do_layer_norm_before else "post_layernorm")
    assert type(ACT2FN[llm.hidden_act]) is type(layer.activation_fn)
    assert llm.tie_word_embeddings == text.tie_word_embeddings
    assert (llm.has_attention_qkvo_bias, llm.has_mlp_bias, llm.mlp_type) == (True, True, "MLP")


@pytest.mark.parametrize("diff", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_t5_is_the_module_that_transformers_makes_of_it(seed: int, diff: bool) -> None:
    config = tiny.blip2_config(seed, tiny.t5_config(seed))
    facts = blip2_t5.facts(whole(config, diff=diff))
    module = T5ForConditionalGeneration(config.text_config)
    for llm, stack in ((facts.encoder, module.encoder), (facts.llm, module.decoder)):
        assert llm is not None
        attention = stack.block[0].layer[0].SelfAttention
        mlp = stack.block[0].layer[-1].DenseReluDense
        assert llm.num_hidden_layers == len(stack.block)
        assert (llm.num_attention_heads, llm.head_size) == (attention.n_heads, attention.key_value_proj_dim)
        assert (llm.vocab_size, llm.hidden_size) == tuple(module.shared.weight.shape)
        assert llm.intermediate_size == mlp.wo.in_features
        assert llm.mlp_type == ("GatedMLP" if hasattr(mlp, "wi_0") else "MLP")
        assert type(ACT2FN[llm.hidden_act]) is type(mlp.act)
        assert llm.norm_epsilon == stack.final_layer_norm.variance_epsilon
        assert llm.num_buckets == attention.relative_attention_num_buckets
        assert llm.max_distance == attention.relative_attention_max_distance
        assert llm.q_scaling * llm.head_size**0.5 == pytest.approx(1.0)  # transformers' T5 divides by nothing
    assert facts.llm.rescale_before_lm_head == module.config.scale_decoder_outputs
    assert facts.llm.decoder_start_token_id == module.generation_config.decoder_start_token_id
    assert (facts.llm.cross_attention, facts.encoder.cross_attention) == (True, False)
    assert (facts.llm.architecture, facts.encoder.architecture) == ("DecoderModel", "EncoderModel")


@pytest.mark.parametrize(
    "keys",
    [
        {"tie_word_embeddings": False},
        {"tie_word_embeddings": True},
        {},
        {"tie_word_embeddings": True, "scale_decoder_outputs": False},
        {"feed_forward_proj": "gated-gelu"},
        {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"},
        {"feed_forward_proj": "gelu"},
    ],
)
def test_t5_files_of_all_times_mean_what_transformers_takes_them_for(keys: dict[str, Any]) -> None:
    config = {"model_type": "blip-2", "text_config": {"model_type": "t5", **keys}}
    facts = blip2_t5.facts(config)
    theirs = T5Config(**keys)
    assert facts.llm.rescale_before_lm_head == theirs.scale_decoder_outputs
    assert facts.llm.hidden_act == theirs.dense_act_fn
    assert (facts.llm.mlp_type == "GatedMLP") == theirs.is_gated_act


@pytest.mark.parametrize("name", ["blip2-opt", "blip2-t5"])
def test_two_sources_have_the_text_models_sizes_and_the_second_ones_features(name: str) -> None:
    text = tiny.opt_config(1) if name == "blip2-opt" else tiny.t5_config(1)
    alone = json.loads(json.dumps(text.to_dict()))
    second = whole(tiny.blip2_config(3, text))
    in_one = family(name).facts({**second, "text_config": alone})
    assert family(name).facts(alone, second) == in_one


@pytest.mark.parametrize(
    ("name", "size", "id_"),
    [("blip2-opt", 50304, 50265), ("blip2-t5", 32128, 32100), ("blip2-opt", 50000, -1)],
)
def test_files_that_do_not_name_the_image_token_get_the_id_the_processor_would_add(
    name: str, size: int, id_: int
) -> None:
    text = {"model_type": name.removeprefix("blip2-"), "vocab_size": size}
    config = {"model_type": "blip-2", "text_config": text}
    assert family(name).facts(config).image_token_id == id_
    assert family(name).facts({**config, "image_token_index": 7}).image_token_id == 7


def recorded(model: str) -> dict[str, Any]:
    return json.loads((RECORDED / f"{model.replace('/', '--')}.json").read_text())


@pytest.mark.parametrize(
    ("name", "text", "second"),
    [
        ("blip2-opt", "facebook/opt-2.7b", "Salesforce/blip2-opt-2.7b"),
        ("blip2-opt", "facebook/opt-6.7b", "Salesforce/blip2-opt-6.7b"),
        ("blip2-t5", "google/flan-t5-xl", "Salesforce/blip2-flan-t5-xl"),
        ("blip2-t5", "google/flan-t5-xxl", "Salesforce/blip2-flan-t5-xxl"),
    ],
)
def test_recorded_models_come_whole_and_in_two(name: str, text: str, second: str) -> None:
    found: list[ModelFacts] = [
        family(name).facts(recorded(second)),
        family(name).facts(recorded(text), recorded(second)),
    ]
    for facts in found:
        assert (
            facts.visual.num_visual_features == 32
        )  # TensorRT-LLM's README: max_multimodal_len 256 for batch 8
        assert facts.image_token_id is not None
        assert facts.image_token_id < facts.llm.vocab_size
    assert found[0].llm.hidden_size == found[1].llm.hidden_size


OPT: dict[str, Any] = {"model_type": "opt"}
T5: dict[str, Any] = {"model_type": "t5"}
BLIP2: dict[str, Any] = {"model_type": "blip-2", "text_config": OPT}


@pytest.mark.parametrize(
    ("name", "config", "vision", "code"),
    [
        ("blip2-opt", OPT, None, "MM414"),
        ("blip2-t5", T5, None, "MM414"),
        ("blip2-opt", BLIP2, BLIP2, "MM415"),
        ("blip2-opt", {**OPT, "hidden_size": 24}, BLIP2, "MM416"),
        ("blip2-opt", OPT, {"model_type": "clip"}, "MM416"),
        ("blip2-opt", OPT, {**BLIP2, "text_config": T5}, "MM416"),
        ("blip2-opt", T5, None, "MM410"),
        ("blip2-t5", BLIP2, None, "MM410"),
        ("blip2-t5", {**BLIP2, "text_config": None}, None, "MM410"),  # an OPT for transformers
        ("blip2-opt", {**BLIP2, "text_config": "opt"}, None, "MM411"),
        ("blip2-opt", {**BLIP2, "text_config": {}, "num_query_tokens": None}, None, "MM411"),
        ("blip2-opt", {**BLIP2, "qformer_config": {"hidden_size": 7}}, None, "MM411"),
        ("blip2-opt", {**BLIP2, "use_decoder_only_language_model": False}, None, "MM411"),
        ("blip2-opt", {**BLIP2, "text_config": {**OPT, "num_attention_heads": 0}}, None, "MM411"),
        ("blip2-opt", OPT, {**BLIP2, "vision_config": {"hidden_size": None}}, "MM411"),
        ("blip2-t5", {**BLIP2, "text_config": {**T5, "dense_act_fn": None}}, None, "MM411"),
        ("blip2-t5", {**BLIP2, "text_config": {**T5, "pad_token_id": None}}, None, "MM411"),
        ("blip2-t5", {**BLIP2, "text_config": {**T5, "is_encoder_decoder": False}}, None, "MM411"),
        ("blip2-opt", {**BLIP2, "text_config": {**OPT, "word_embed_proj_dim": 512}}, None, "MM411"),
        ("blip2-opt", {**BLIP2, "text_config": {**OPT, "enable_bias": False}}, None, "MM411"),
        ("blip2-opt", {**BLIP2, "vision_config": {"image_size": [224, 112]}}, None, "MM411"),
        ("blip2-t5", {**BLIP2, "text_config": {**T5, "feed_forward_proj": "swish-gelu"}}, None, "MM411"),
    ],
)
def test_unsupported_configs_are_reported(
    name: str, config: dict[str, Any], vision: dict[str, Any] | None, code: str
) -> None:
    with pytest.raises(FamilyError) as caught:
        family(name).facts(config, vision)
    assert caught.value.code == code


@pytest.mark.parametrize("text", [{}, {"text_config": None}])
def test_a_language_model_that_is_not_described_is_an_opt_of_default_sizes(text: dict[str, None]) -> None:
    facts = blip2_opt.facts({"model_type": "blip-2", **text})
    assert (facts.llm.hidden_size, facts.visual.hidden_size) == (768, 1408)


@pytest.mark.parametrize(
    ("keys", "start"),
    [
        ({"decoder_start_token_id": 5, "bos_token_id": 6}, 5),
        ({"decoder_start_token_id": None, "bos_token_id": 6}, 6),
        ({"bos_token_id": 0, "pad_token_id": 3}, 0),
        ({"pad_token_id": 3}, 3),
        ({}, 0),
    ],
)
def test_t5_begins_with_what_generate_begins_with_or_else_with_its_padding(
    keys: dict[str, Any], start: int
) -> None:
    facts = blip2_t5.facts({"model_type": "blip-2", "text_config": {**T5, **keys}})
    assert facts.llm.decoder_start_token_id == start


def test_a_projected_embedding_is_refused_with_the_reason() -> None:
    config = {"model_type": "opt", "hidden_size": 1024, "word_embed_proj_dim": 512}
    with pytest.raises(FamilyError, match="OPT-350M"):
        blip2_opt.facts(config, {**BLIP2, "text_config": {**OPT, "hidden_size": 1024}})
    assert OPTConfig(hidden_size=1024, word_embed_proj_dim=512).word_embed_proj_dim == 512


def test_the_number_of_features_is_that_of_the_questions() -> None:
    derivation = blip2_opt.facts({**BLIP2, "num_query_tokens": 11}).visual.derivation
    assert (derivation.value, derivation.arithmetic) == (11, "num_query_tokens 11 = 11")
    assert torch.zeros(1, derivation.value).shape[1] == Blip2Config(num_query_tokens=11).num_query_tokens
