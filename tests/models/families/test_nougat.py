"""What a Nougat config.json means, against transformers' own classes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DonutSwinConfig, DonutSwinModel, VisionEncoderDecoderModel

from mmbuild.models.families import FamilyError, nougat
from support.models import tiny_families as tiny

RECORDED = Path(nougat.__file__).parents[1] / "recorded"


def plain(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(config.to_dict()))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(40, 90), width=st.integers(40, 90), patch=st.integers(2, 5), stages=st.integers(1, 3)
)
@torch.inference_mode()
def test_visual_features_are_those_transformers_returns(
    height: int, width: int, patch: int, stages: int
) -> None:
    config = DonutSwinConfig(
        image_size=[height, width],
        patch_size=patch,
        embed_dim=4,
        depths=[1] * stages,
        num_heads=[1] * stages,
        window_size=2,
    )
    decoder = {"model_type": "mbart"}
    found = nougat.facts(
        {"model_type": "vision-encoder-decoder", "encoder": plain(config), "decoder": decoder}
    )
    features = DonutSwinModel(config).eval()(torch.zeros(1, 3, height, width)).last_hidden_state
    assert (found.visual.num_visual_features, found.visual.hidden_size) == features.shape[1:]
    assert found.visual.derivation.arithmetic.endswith(f"= {features.shape[1]}")


@pytest.mark.parametrize("seed", range(6))
def test_the_decoder_is_the_module_that_transformers_makes_of_it(seed: int) -> None:
    model = VisionEncoderDecoderModel(tiny.nougat_config(seed))
    llm = nougat.facts(plain(model.config)).llm
    decoder = model.decoder.model.decoder
    layer = decoder.layers[0]
    assert (llm.vocab_size, llm.hidden_size) == tuple(decoder.embed_tokens.weight.shape)
    assert llm.num_hidden_layers == len(decoder.layers)
    assert (llm.num_attention_heads, llm.head_size) == (layer.self_attn.num_heads, layer.self_attn.head_dim)
    assert llm.intermediate_size == layer.fc1.out_features
    assert (
        llm.max_position_embeddings == decoder.embed_positions.num_embeddings - decoder.embed_positions.offset
    )
    assert llm.norm_epsilon == decoder.layernorm_embedding.eps == decoder.layer_norm.eps
    scale = math.sqrt(llm.hidden_size) if llm.has_embedding_scale else 1.0
    assert decoder.embed_tokens.embed_scale == pytest.approx(scale)
    head, table = model.decoder.lm_head.weight, decoder.embed_tokens.weight
    assert llm.tie_word_embeddings == (head is table)
    assert llm.cross_attention
    assert llm.decoder_start_token_id == start_of(model)


def start_of(model: VisionEncoderDecoderModel) -> int:
    """What transformers' generate begins with."""
    pixels = torch.zeros(1, 3, *model.config.encoder.image_size)
    with torch.inference_mode():
        return int(model.eval().generate(pixels, max_new_tokens=1)[0, 0])


@pytest.mark.parametrize(
    ("outer", "inner", "start"),
    [
        ({}, {}, 0),
        ({}, {"bos_token_id": 5}, 5),
        ({}, {"decoder_start_token_id": 6, "bos_token_id": 5}, 6),
        ({"decoder_start_token_id": 7}, {"bos_token_id": 5}, 7),
    ],
)
def test_answers_begin_with_what_transformers_begins_with(
    outer: dict[str, int], inner: dict[str, int], start: int
) -> None:
    config = tiny.nougat_config(0, **inner)
    for key, value in outer.items():
        setattr(config, key, value)
    assert start_of(VisionEncoderDecoderModel(config)) == start
    assert nougat.facts(plain(config)).llm.decoder_start_token_id == start


@pytest.mark.parametrize(
    ("outer", "inner", "eos"),
    [
        ({}, {}, (2,)),
        ({"eos_token_id": 0}, {}, (0,)),
        ({"eos_token_id": None}, {"eos_token_id": [2, 3]}, (2, 3)),
    ],
)
def test_end_tokens_outside_go_before_those_of_the_decoder(
    outer: dict[str, Any], inner: dict[str, Any], eos: tuple[int, ...]
) -> None:
    config = {**NOUGAT, **outer, "decoder": {**MBART, **inner}}
    assert nougat.facts(config).eos_token_ids == eos


@pytest.mark.parametrize(("model", "layers"), [("nougat-base", 10), ("nougat-small", 4)])
def test_recorded_models_make_588_features_of_a_page(model: str, layers: int) -> None:
    config = json.loads((RECORDED / f"facebook--{model}.json").read_text())
    facts = nougat.facts(config)
    assert facts.visual.num_visual_features == 588  # TensorRT-LLM's README
    assert facts.visual.derivation.arithmetic == (
        "896 / 4 -> 224 -> 112 -> 56 -> 28, 672 / 4 -> 168 -> 84 -> 42 -> 21; 28 x 21 = 588"
    )
    assert facts.llm.num_hidden_layers == layers


SWIN: dict[str, Any] = {"model_type": "donut-swin"}
MBART: dict[str, Any] = {"model_type": "mbart"}
NOUGAT: dict[str, Any] = {"model_type": "vision-encoder-decoder", "encoder": SWIN, "decoder": MBART}


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"model_type": "llava"}, "MM410"),
        ({**NOUGAT, "encoder": {"model_type": "vit"}}, "MM410"),
        ({**NOUGAT, "decoder": {"model_type": "trocr"}}, "MM410"),
        ({**NOUGAT, "decoder": None}, "MM411"),
        ({**NOUGAT, "decoder": {}}, "MM411"),  # transformers guesses no kind here
        ({**NOUGAT, "decoder": {**MBART, "d_model": None}}, "MM411"),
        ({**NOUGAT, "decoder": {**MBART, "d_model": 512, "cross_attention_hidden_size": 512}}, "MM411"),
        ({**NOUGAT, "decoder": {**MBART, "bos_token_id": None}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "hidden_size": 512}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "depths": []}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "depths": [2] * 17}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "num_heads": [3, 6]}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "num_heads": [5, 6, 12, 24]}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "mlp_ratio": 4}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "window_size": 0}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "use_absolute_embeddings": True}}, "MM411"),
        ({**NOUGAT, "encoder": {**SWIN, "image_size": [1, 2, 3]}}, "MM411"),
        ({**NOUGAT, "decoder": {**MBART, "cross_attention_hidden_size": 7}}, "MM411"),
        ({**NOUGAT, "decoder": {**MBART, "add_cross_attention": False}}, "MM411"),
    ],
)
def test_unsupported_configs_are_reported(config: dict[str, Any], code: str) -> None:
    with pytest.raises(FamilyError) as caught:
        nougat.facts(config)
    assert caught.value.code == code
