"""Rotary positions are resolved once, to what transformers computes, and other kinds are refused by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mmbuild.backends.torch import positions
from mmbuild.models.families import FamilyError, family
from mmbuild.models.families.rope import BUILT, resolve
from support.errors import refused

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"rope_type": "linear", "factor": 4}


def llava(text: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": "llava", "text_config": text}


def flat(text: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": "llava_llama", "mm_vision_tower": "a/b", **text}


@pytest.mark.parametrize(
    ("text", "base", "scaling"),
    [
        ({}, 1e4, None),
        ({"rope_theta": 500000}, 5e5, None),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, None),
        ({"rope_theta": 5e5, "rope_parameters": {}}, 5e5, None),
        ({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}}, 5e5, None),
        ({"rope_scaling": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, None),
        # rope_scaling stands for rope_parameters as a whole, its base too.
        ({"rope_scaling": LINEAR, "rope_parameters": {"rope_theta": 5e5}}, 1e4, LINEAR),
        ({"rope_scaling": None, "rope_parameters": {"rope_theta": 5e5}}, 5e5, None),
        ({"rope_scaling": {}, "rope_parameters": {"rope_theta": 5e5, **LINEAR}}, 5e5, LINEAR),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 1e4, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_scaling": {"type": "dynamic", **LINEAR}}, 1e4, LINEAR),
        ({"rope_scaling": {"type": "dynamic", "rope_type": "default", "factor": 2.0}}, 1e4, None),
        (
            {"rope_scaling": LLAMA3, "max_position_embeddings": 4096},
            1e4,
            {**LLAMA3, "original_max_position_embeddings": 4096},
        ),
        (
            {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8192}},
            1e4,
            {**LLAMA3, "original_max_position_embeddings": 8192},
        ),
        (
            {
                "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8192},
                "original_max_position_embeddings": 64,
            },
            1e4,
            {**LLAMA3, "original_max_position_embeddings": 64},
        ),
        ({"partial_rotary_factor": 0.5}, 1e4, None),  # looked at where positions are scaled
        ({"rope_scaling": {**LINEAR, "partial_rotary_factor": 1.0}}, 1e4, LINEAR),
    ],
)
@pytest.mark.parametrize("where", [llava, flat], ids=["llava", "vila"])
def test_positions_are_those_of_transformers(
    text: dict[str, Any], base: float, scaling: dict[str, Any] | None, where: Any
) -> None:
    config = where(copy.deepcopy(text))
    second = None if where is llava else {"model_type": "clip_vision_model"}
    llm = family("llava" if where is llava else "vila").facts(config, second).llm
    assert (llm.rotary_base, llm.rotary_scaling) == (base, scaling)
    theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(copy.deepcopy(text)))
    assert torch.equal(positions.inverse_frequencies(llm), theirs.inv_freq)
    assert theirs.attention_scaling == 1.0


@pytest.mark.parametrize("kind", ["dynamic", "yarn", "longrope", "su", "mrope", "proportional", "ntk"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
def test_other_kinds_are_refused_by_name(kind: str, key: str, place: str) -> None:
    error = refused(FamilyError, "MM503", family("llava").facts, llava({place: {key: kind, "factor": 4.0}}))
    assert f"`text_config.{place}.{key}`" in error.message
    assert f'"{kind}"' in error.message
    assert error.hint
    assert "linear" in error.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ({"rope_theta": None}, "`x.rope_theta` in config.json is null"),
        ({"rope_theta": "500000"}, "`x.rope_theta`"),
        ({"rope_theta": 0}, "`x.rope_theta`"),
        ({"rope_parameters": {"rope_theta": None}}, "`x.rope_parameters.rope_theta` in config.json is null"),
        ({"rope_scaling": {"rope_type": None}}, "`x.rope_scaling.rope_type` in config.json is null"),
        ({"rope_scaling": {"type": ["linear"]}}, "`x.rope_scaling.type`"),
        ({"rope_scaling": {"rope_type": "linear"}}, "`x.rope_scaling.factor` in config.json is null"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "`x.rope_scaling.factor`"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "`x.rope_scaling.low_freq_factor`"),
        (
            {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": None}},
            "`x.rope_scaling.original_max_position_embeddings`",
        ),
        (
            {"rope_scaling": LLAMA3, "original_max_position_embeddings": None},
            "`x.original_max_position_embeddings`",
        ),
        ({"rope_scaling": "linear"}, "`x.rope_scaling`"),
        ({"rope_scaling": {**LINEAR, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"layer_types": ["sliding_attention"] * 32}, "`x.layer_types`"),
        ({"layer_types": ["full_attention"] * 31}, "`x.layer_types`"),
    ],
)
def test_numbers_that_transformers_fails_on_are_named(text: dict[str, Any], told: str) -> None:
    from mmbuild.models.families.transformers_config import parse

    assert told in refused(FamilyError, "MM411", resolve, parse("llama", text, "x."), "x.").message


def test_the_engine_computes_every_kind_that_is_let_through() -> None:
    assert set(positions._SCALED) == set(BUILT)
