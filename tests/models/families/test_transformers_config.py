"""A section of config.json is read as transformers' config class reads it, and what it cannot take is named."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mmbuild.models.families import FamilyError
from mmbuild.models.families.defaults import config_class
from mmbuild.models.families.transformers_config import (
    MISSING,
    display,
    is_kind,
    is_number,
    parse,
    wrong_value,
)
from support.errors import refused

# Read by other modules (positions, sections), kept by T5 as the file says it, or not read at all.
ELSEWHERE = {"rope_parameters", "vision_config", "text_config", "qformer_config", "tie_word_embeddings"}
ELSEWHERE |= {"dtype", "torch_dtype", "id2label", "label2id"}


def theirs(model_type: str, section: dict[str, Any]) -> Any:
    return CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(section))


@pytest.mark.parametrize(
    ("model_type", "section"),
    [
        ("llama", {}),
        (
            "llama",
            {"hidden_size": 96, "num_attention_heads": 6, "head_dim": None, "num_key_value_heads": None},
        ),
        ("llama", {"head_dim": 48, "num_key_value_heads": 0}),
        ("llama", {"dtype": None, "torch_dtype": "bfloat16"}),
        ("opt", {"hidden_size": 96, "word_embed_proj_dim": None}),
        ("t5", {"num_layers": 3, "num_decoder_layers": None}),
        ("t5", {"num_hidden_layers": 3}),  # an alias, read after the decoder's layers were derived
        ("t5", {"d_model": 32, "hidden_size": 48, "head_dim": 5, "num_attention_heads": 3}),
        ("t5", {"feed_forward_proj": "gated-gelu"}),
        ("t5", {"feed_forward_proj": "gated-silu", "is_gated_act": False, "dense_act_fn": "relu"}),
        ("t5", {"tie_word_embeddings": False}),
        ("t5", {"tie_word_embeddings": False, "scale_decoder_outputs": True}),
        ("llava", {"image_token_index": 5, "image_token_id": 7}),
        ("llava", {"image_token_id": 7, "image_token_index": 5}),
        ("blip-2", {"image_token_id": None, "image_token_index": 5}),
        ("mbart", {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}),
        ("donut-swin", {"depths": [1, 2, 1], "embed_dim": 24, "num_attention_heads": [2, 2, 4]}),
        ("donut-swin", {"depths": [1, 2, 1], "hidden_size": 77}),
    ],
)
def test_attributes_are_those_of_the_class(model_type: str, section: dict[str, Any]) -> None:
    parsed, config = parse(model_type, section), theirs(model_type, section)
    names = {*config_class(model_type).fields, *section} - set(config.attribute_map) - ELSEWHERE
    read = {name: getattr(config, name) for name in names}
    assert {name: parsed[name] for name in names} == json.loads(json.dumps(read))


@pytest.mark.parametrize(
    ("model_type", "section", "told"),
    [
        (
            "llama",
            {"hidden_size": None},
            "`x.hidden_size` in config.json is null, and must be a whole number",
        ),
        ("llama", {"num_hidden_layers": "32"}, '`x.num_hidden_layers` in config.json is "32"'),
        ("llama", {"num_hidden_layers": 4.0}, "`x.num_hidden_layers` in config.json is 4.0"),
        ("llama", {"num_attention_heads": True}, "`x.num_attention_heads` in config.json is true"),
        ("llama", {"num_attention_heads": 0}, "`x.num_attention_heads` in config.json is 0"),
        ("llama", {"rms_norm_eps": 1}, "a number with a decimal point"),
        ("llama", {"tie_word_embeddings": None}, "true or false"),
        ("llama", {"tie_word_embeddings": 1}, "true or false"),
        ("llama", {"eos_token_id": [1, "2"]}, "or null"),
        ("llama", {"hidden_size": 10**30}, "64 bits"),
        ("llama", {"hidden_size": 30}, "a multiple of `x.num_attention_heads`, 32"),
        ("llama", {"initializer_range": 2.0}, "between 0 and 1"),
        ("llama", {"architectures": "LlamaForCausalLM"}, "a list of strings"),
        ("llama", {"torch_dtype": "torch.float16"}, '`x.torch_dtype` in config.json is "torch.float16"'),
        ("llama", {"dtype": "auto", "torch_dtype": "float16"}, "`x.dtype`"),
        ("llama", {"id2label": {"a": "b"}}, "`x.id2label`"),
        ("llama", {"num_labels": None}, "`x.num_labels`"),
        ("llama", {"use_return_dict": True}, "`x.use_return_dict`"),
        ("llama", {"per_layer_config": {"0": {"hidden_size": 8}}}, "`x.per_layer_config`"),
        ("llama", {"problem_type": "answers"}, "`regression` or"),
        ("llava", {"vision_feature_select_strategy": "cls"}, "`default` or `full`"),
        ("llava", {"vision_feature_select_strategy": None}, "`x.vision_feature_select_strategy`"),
        ("llava", {"image_token_id": None}, "`x.image_token_id` in config.json is null"),
        ("clip_vision_model", {"hidden_size": 770}, "a multiple of"),
        ("t5", {"feed_forward_proj": "swish-gelu"}, "`gated-` and an activation"),
        ("t5", {"num_attention_heads": None}, "`x.num_attention_heads` in config.json is null"),
        ("donut-swin", {"mlp_ratio": 4}, "a number with a decimal point"),
        ("donut-swin", {"depths": []}, "`x.depths`"),
    ],
)
def test_what_the_class_or_its_model_cannot_take_is_named(
    model_type: str, section: dict[str, Any], told: str
) -> None:
    assert told in refused(FamilyError, "MM411", parse, model_type, section, "x.").message


def test_a_hint_names_the_default() -> None:
    error = refused(FamilyError, "MM411", parse, "llama", {"hidden_size": None})
    assert error.hint
    assert "transformers' default, 4096" in error.hint


def test_a_missing_key_is_not_called_null() -> None:
    assert wrong_value("decoder.", "model_type", MISSING, "a string").message == (
        "config.json has no `decoder.model_type`, which must be a string"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (float("nan"), "NaN"),
        ("a\nb\ud800", '"a\\nb\\ud800"'),
        ({"a": 1}, "a section"),
        ([[1]], "a nested list"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_values_are_shown_in_one_printable_line(value: object, text: str) -> None:
    assert display(value) == text


def test_long_values_are_cut() -> None:
    assert display("x" * 1000).endswith("...")
    assert display(10**5000) == "a number of thousands of digits"


def test_whole_numbers_are_no_numbers_with_a_decimal_point() -> None:
    assert [is_kind(value, "float") for value in (1.0, 1, True)] == [True, False, False]
    assert [is_kind(value, "int|float?") for value in (1.0, 1, None, True)] == [True, True, True, False]
    assert [is_number(value) for value in (1, 1.5, True, float("inf"), 2**64)] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("model_type", "key", "most", "more"),
    [
        ("llama", "num_hidden_layers", 4096, 10**9),
        ("clip_vision_model", "num_hidden_layers", 4096, 4097),
        ("t5", "num_decoder_layers", 4096, 10**6),
        ("donut-swin", "depths", [2, 4096], [2, 4097]),
    ],
)
def test_layers_are_no_more_than_can_be_listed(model_type: str, key: str, most: Any, more: Any) -> None:
    assert parse(model_type, {key: most})[key] == most
    error = refused(FamilyError, "MM411", parse, model_type, {key: more}, "x.")
    assert f"`x.{key}` in config.json is {display(more)}, and must be at most 4,096 layers" in error.message
