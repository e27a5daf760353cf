"""Sizes that no model has are refused, whatever the family; those of every recorded model are sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.torch.blocks import activation
from mmbuild.models.families import FamilyError, family
from mmbuild.models.families.facts import ModelFacts
from mmbuild.models.families.sanity_checks import ACTIVATIONS, require_layer, require_sound
from mmbuild.models.sources.config import read_config
from support.errors import refused


def facts(name: str, repo: str) -> ModelFacts:
    return family(name).facts(read_config(f"hf://{repo}", None, Path(), offline=True).config)


LLAVA = facts("llava", "llava-hf/llava-1.5-7b-hf")
NOUGAT = facts("nougat", "facebook/nougat-base")
T5 = facts("blip2-t5", "Salesforce/blip2-flan-t5-xl")


@pytest.mark.parametrize("sound", [LLAVA, NOUGAT, T5], ids=lambda sound: sound.family)
def test_real_models_are_sound(sound: ModelFacts) -> None:
    require_sound(sound)


@pytest.mark.parametrize(
    ("model", "wrong", "told"),
    [
        (LLAVA, {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        (LLAVA, {"num_attention_heads": -2}, "num_attention_heads is -2"),
        (LLAVA, {"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 32"),
        (LLAVA, {"hidden_act": "swish"}, "activation is `swish`"),
        (NOUGAT, {"num_attention_heads": 7, "num_key_value_heads": 7}, "7 does not divide hidden_size 1024"),
        (NOUGAT, {"max_position_embeddings": 0}, "max_position_embeddings is 0"),
        (T5, {"vocab_size": 0}, "the decoder's vocab_size is 0"),
    ],
)
def test_implausible_sizes_are_reported(model: ModelFacts, wrong: dict[str, Any], told: str) -> None:
    broken = replace(model, llm=replace(model.llm, **wrong))
    assert told in refused(FamilyError, "MM411", require_sound, broken).message


def test_an_encoder_and_the_tower_are_looked_at_too() -> None:
    assert T5.encoder is not None
    encoder = replace(T5.encoder, num_hidden_layers=0)
    assert (
        "the encoder's num_hidden"
        in refused(FamilyError, "MM411", require_sound, replace(T5, encoder=encoder)).message
    )
    visual = replace(T5.visual, num_hidden_layers=0)
    assert (
        "the tower's num_hidden"
        in refused(FamilyError, "MM411", require_sound, replace(T5, visual=visual)).message
    )


def test_heads_may_be_of_any_width_where_positions_are_no_table() -> None:
    require_sound(replace(T5, llm=replace(T5.llm, head_size=7)))


@pytest.mark.parametrize("layer", [0, 24, -1, -25])
def test_hidden_states_of_a_tower_are_the_embeddings_and_each_layer_s(layer: int) -> None:
    assert require_layer("where", layer, 24) == layer


@pytest.mark.parametrize("layer", [25, -26, "last", None])
def test_other_hidden_states_are_refused(layer: object) -> None:
    assert (
        "the tower has 24 layers" in refused(FamilyError, "MM411", require_layer, "where", layer, 24).message
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_engine_has_every_activation_that_is_let_through(name: str) -> None:
    assert callable(activation(name))
