"""What a LLaVA config.json means, against transformers' own classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmbuild.models.families import FamilyError, family
from mmbuild.models.families.llava import facts
from support.examples import examples


@st.composite
def configs(draw: st.DrawFn) -> LlavaConfig:
    head, kv, groups = draw(st.sampled_from([4, 8])), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    patch = draw(st.integers(3, 9))
    text = LlamaConfig(
        vocab_size=draw(st.integers(40, 90)),
        hidden_size=head * kv * groups,
        num_attention_heads=kv * groups,
        num_key_value_heads=kv,
        intermediate_size=draw(st.integers(8, 40)),
        num_hidden_layers=draw(st.integers(1, 2)),
        max_position_embeddings=draw(st.integers(16, 512)),
        tie_word_embeddings=draw(st.booleans()),
        rope_parameters=draw(
            st.sampled_from(
                [
                    None,
                    {"rope_type": "default", "rope_theta": 500000.0},
                    {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
                ]
            )
        ),
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        patch_size=patch,
        image_size=patch * draw(st.integers(1, 5)) + draw(st.integers(0, patch - 1)),
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=draw(st.integers(0, 39)),
        vision_feature_select_strategy=draw(st.sampled_from(["default", "full"])),
        vision_feature_layer=draw(st.sampled_from([-2, -1, [-2, -1]])),
    )


@settings(max_examples=15, deadline=None)
@given(configs())
@torch.inference_mode()
def test_visual_features_are_those_transformers_returns(config: LlavaConfig) -> None:
    model = LlavaForConditionalGeneration(config).eval()
    size = config.vision_config.image_size
    returned = model.model.get_image_features(
        pixel_values=torch.zeros(1, 3, size, size),
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    )
    (features,) = returned.pooler_output
    visual = facts(config.to_dict()).visual
    assert visual.num_visual_features == features.shape[0]
    assert visual.derivation.arithmetic.endswith(f"= {features.shape[0]}")


@settings(max_examples=examples(30), deadline=None)
@given(configs(), st.booleans())
def test_sizes_are_transformers_whether_written_whole_or_as_a_difference(
    config: LlavaConfig, whole: bool
) -> None:
    llm = facts(config.to_dict() if whole else config.to_diff_dict()).llm
    text = config.text_config
    for name in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ):
        assert getattr(llm, name) == getattr(text, name)
    assert llm.head_size == text.head_dim
    assert llm.norm_epsilon == text.rms_norm_eps
    assert llm.max_position_embeddings == text.max_position_embeddings
    assert llm.rotary_base == text.rope_parameters["rope_theta"]
    assert (llm.rotary_scaling is None) == (text.rope_parameters["rope_type"] == "default")


@pytest.mark.parametrize("outer", [None, False, True])
@pytest.mark.parametrize("inner", [None, False, True])
def test_embeddings_are_tied_where_transformers_ties_them(outer: bool | None, inner: bool | None) -> None:
    config: dict[str, Any] = {
        "model_type": "llava",
        "text_config": {"model_type": "llama"},
        "vision_config": {"model_type": "clip_vision_model"},
    }
    if outer is not None:
        config["tie_word_embeddings"] = outer
    if inner is not None:
        config["text_config"]["tie_word_embeddings"] = inner
    theirs = LlavaConfig(
        **copy.deepcopy({key: value for key, value in config.items() if key != "model_type"})
    )
    assert facts(config).llm.tie_word_embeddings == theirs.tie_word_embeddings


@pytest.mark.parametrize(
    ("scaling", "scaled"),
    [
        (None, False),
        ({"type": "linear", "factor": 2.0}, True),
        ({"rope_type": "default"}, False),
    ],
)
def test_older_files_scale_positions_under_another_name(scaling: dict[str, Any] | None, scaled: bool) -> None:
    text = {"model_type": "llama", "rope_scaling": scaling, "rope_theta": 20000.0}
    config = {"model_type": "llava", "text_config": text, "vision_config": {}}
    llm = facts(config).llm
    assert (llm.rotary_scaling is not None, llm.rotary_base) == (scaled, 20000.0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_type": "blip-2"}, "MM410"),
        ({"model_type": None}, "MM410"),
        ({"text_config": {"model_type": "mistral"}}, "MM410"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "MM410"),
        ({"text_config": []}, "MM411"),
        ({"text_config": "llama"}, "MM411"),
        ({"text_config": {"model_type": None}}, "MM411"),
        ({"vision_feature_layer": None}, "MM411"),
        ({"vision_feature_layer": []}, "MM411"),
        ({"vision_feature_layer": [-2, 13]}, "MM411"),
        ({"image_token_id": None}, "MM411"),
        ({"projector_hidden_act": "swishy"}, "MM411"),
        ({"vision_config": {"image_size": [224, 224]}}, "MM411"),
        ({"vision_config": {"num_channels": 1}}, "MM411"),
        ({"text_config": {"sliding_window": 1024}}, "MM411"),
        ({"text_config": {"head_dim": 5}}, "MM411"),
        ({"eos_token_id": "</s>"}, "MM411"),
        ({"vision_feature_select_strategy": "cls"}, "MM411"),
        ({"text_config": {"attention_bias": True}}, "MM411"),
        ({"text_config": {"mlp_bias": True}}, "MM411"),
        ({"vision_config": {"image_size": 8, "patch_size": 9}}, "MM411"),
    ],
)
def test_configs_of_other_models_are_rejected(change: dict[str, Any], code: str) -> None:
    config = {"model_type": "llava", "text_config": {}, "vision_config": {}, **change}
    with pytest.raises(FamilyError) as caught:
        facts(config)
    assert caught.value.code == code


@pytest.mark.parametrize("missing", [{}, {"text_config": None, "vision_config": None}])
def test_sections_that_are_missing_or_null_are_transformers_defaults(missing: dict[str, None]) -> None:
    found, theirs = facts({"model_type": "llava", **missing}), LlavaConfig()
    assert found.llm.hidden_size == theirs.text_config.hidden_size
    assert found.visual.image_size[0] == theirs.vision_config.image_size == 336
    assert found.visual.hidden_size == theirs.vision_config.hidden_size == 1024
    assert found.visual.num_visual_features == theirs.image_seq_length


def test_a_window_as_long_as_the_model_is_accepted() -> None:
    text = {"sliding_window": 2048, "attention_chunk_size": None}
    assert facts({"model_type": "llava", "text_config": text}).llm.max_position_embeddings == 2048


@pytest.mark.parametrize(
    ("outer", "eos"),
    [
        ({}, (2,)),
        ({"eos_token_id": None}, (2,)),
        ({"eos_token_id": [0, 5]}, (0, 5)),
        ({"eos_token_id": 0}, (0,)),
    ],
)
def test_end_tokens_outside_go_before_those_inside(outer: dict[str, Any], eos: tuple[int, ...]) -> None:
    config = {"model_type": "llava", "text_config": {"eos_token_id": 2}, **outer}
    assert facts(config).eos_token_ids == eos


def test_the_size_of_the_vocabulary_is_the_decoder_s() -> None:
    config = {"model_type": "llava", "vocab_size": 7, "text_config": {"vocab_size": 32064}}
    assert facts(config).llm.vocab_size == 32064


def test_the_family_is_found_by_name() -> None:
    assert family("llava").NAME == "llava"
