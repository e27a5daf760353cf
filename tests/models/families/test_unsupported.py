"""Sources that no engine can be built from are refused from config.json alone, whatever the family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmbuild.models.families import MODULES, FamilyError, family
from support.errors import refused

CLIP = {"model_type": "clip", "vision_config": {"image_size": 336, "patch_size": 14}}
BLIP2: dict[str, Any] = {"model_type": "blip-2"}
BLIP2_T5 = {"model_type": "blip-2", "text_config": {"model_type": "t5"}}
NOUGAT = {
    "model_type": "vision-encoder-decoder",
    "encoder": {"model_type": "donut-swin"},
    "decoder": {"model_type": "mbart"},
}
FLAT = {"model_type": "llava_llama", "mm_vision_tower": "a/b"}
VILA = {
    "model_type": "llava_llama",
    "llm_cfg": {},
    "vision_tower_cfg": {"model_type": "siglip_vision_model"},
    "mm_projector_cfg": {"mm_projector_type": "linear"},
    "mm_vision_select_feature": "cls_patch",
}
# A model of every family in every form: the family, its config, that of its second source, and its sections.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None, tuple[str, ...]]] = {
    "llava": ("llava", {"model_type": "llava"}, None, ("text_config", "vision_config")),
    "vila": ("vila", VILA, None, ("llm_cfg", "vision_tower_cfg", "mm_projector_cfg")),
    "vila, flat": ("vila", FLAT, CLIP, ()),
    "blip2-opt": ("blip2-opt", BLIP2, None, ("text_config", "vision_config", "qformer_config")),
    "blip2-opt in two": ("blip2-opt", {"model_type": "opt"}, BLIP2, ()),
    "blip2-t5": ("blip2-t5", BLIP2_T5, None, ("text_config", "vision_config")),
    "blip2-t5 in two": ("blip2-t5", {"model_type": "t5"}, BLIP2_T5, ()),
    "nougat": ("nougat", NOUGAT, None, ("encoder", "decoder")),
}
NOTES: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, "awq"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
    ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
    (
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "dense"}},
        "compressed-tensors",
    ),
    ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, "modelopt"),
    ({"quantization_config": {"quant_algo": "W4A16_AWQ"}}, "W4A16_AWQ"),
    ({"compression_config": {"format": "pack-quantized", "config_groups": {}}}, "pack-quantized"),
    ({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}, "FP8"),
    ({"hf_quant_config": {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}}, "FP8"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "4 bits"),
    ({"quant_config": "awq"}, "awq"),
]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_of_these_is_built(model: str) -> None:
    name, config, second, _ = MODELS[model]
    assert family(name).facts(config, second).family == name


def test_every_family_is_among_them() -> None:
    assert {name for name, *_ in MODELS.values()} == set(MODULES)


@pytest.mark.parametrize(("note", "method"), NOTES)
@pytest.mark.parametrize("model", MODELS)
def test_weights_that_are_quantized_already_are_refused_by_name(
    model: str, note: dict[str, Any], method: str
) -> None:
    name, config, second, sections = MODELS[model]
    error = refused(FamilyError, "MM710", family(name).facts, {**config, **note}, second)
    assert method in error.message
    assert next(iter(note)) in error.message
    assert error.hint
    assert "unquantized" in error.hint
    for key in sections:
        inside = {**config, key: {**(config.get(key) or {}), **note}}
        assert f"`{key}." in refused(FamilyError, "MM710", family(name).facts, inside, second).message
    if second is not None:
        error = refused(FamilyError, "MM710", family(name).facts, config, {**second, **note})
        assert error.blame == ("model.vision.source",)
        assert "model.vision" in error.message


@pytest.mark.parametrize(
    "note",
    [
        {"quantization_config": None},
        {"quantization_config": {}},
        {"quantization": {"quant_algo": None, "kv_cache_quant_algo": None}},
        {"compression_config": None},
    ],
)
@pytest.mark.parametrize("model", MODELS)
def test_an_empty_note_of_a_quantizer_is_none(model: str, note: dict[str, Any]) -> None:
    name, config, second, _ = MODELS[model]
    assert family(name).facts({**config, **note}, second) == family(name).facts(config, second)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("_name_or_path", "llava-hf/llava-1.5-7b-hf", True),
        ("base_model", "llava-hf/llava-1.5-7b-hf", True),
        ("_name_or_path", "somebody/llava-1.5-7b-hf-bnb-4bit", False),
        ("_name_or_path", "somebody/llava-1.5-7b-AWQ", False),
        ("_name_or_path", "./checkpoints/llava", False),
        ("_name_or_path", None, False),
    ],
)
def test_the_unquantized_model_is_named_if_the_config_has_it(key: str, value: object, named: bool) -> None:
    config = {"model_type": "llava", key: value, "quantization_config": {"quant_method": "awq"}}
    error = refused(FamilyError, "MM710", family("llava").facts, config)
    assert error.hint
    assert (f"hf://{value}" in error.hint) == named


TILES = [
    {"image_aspect_ratio": "anyres"},
    {"image_aspect_ratio": "anyres_max_9"},
    {"image_aspect_ratio": "dynamic_s2"},
    {"mm_patch_merge_type": "spatial_unpad"},
    {"mm_patch_merge_type": "spatial"},
    {"mm_patch_merge_type": "unpad"},
    {"image_grid_pinpoints": [[336, 672], [672, 336]]},
    {"image_grid_pinpoints": "(1x1),...,(6x6)"},
]


@pytest.mark.parametrize("keys", TILES)
@pytest.mark.parametrize("name", ["llava", "vila"])
def test_pictures_in_tiles_are_not_built_by_any_family(name: str, keys: dict[str, Any]) -> None:
    error = refused(FamilyError, "MM411", family(name).facts, {**FLAT, **keys}, CLIP)
    assert next(iter(keys)) in error.message
    assert error.hint
    assert "whole pictures" in error.hint


@pytest.mark.parametrize("moe", [True, {"moe_enable": True, "num_experts": [4]}, {"num_experts": 4}])
def test_experts_are_not_built(moe: object) -> None:
    assert (
        "experts" in refused(FamilyError, "MM411", family("vila").facts, {**FLAT, "moe": moe}, CLIP).message
    )


@pytest.mark.parametrize(
    ("model", "classes"),
    [
        ("llava", "LlavaForSequenceClassification"),
        ("llava", "LlavaModel"),
        ("llava", "LlavaNextForConditionalGeneration"),
        ("llava", "VipLlavaForConditionalGeneration"),
        ("llava", "LlavaOnevisionForConditionalGeneration"),
        ("blip2-opt", "Blip2ForImageTextRetrieval"),
        ("blip2-opt", "Blip2Model"),
        ("blip2-opt", "Blip2VisionModelWithProjection"),
        ("blip2-opt", "Blip2TextModelWithProjection"),
        ("blip2-opt", "Blip2QFormerModel"),
        ("blip2-t5", "InstructBlipForConditionalGeneration"),
        ("blip2-t5 in two", "T5EncoderModel"),
        ("blip2-t5 in two", "T5ForSequenceClassification"),
        ("blip2-t5 in two", "MT5ForConditionalGeneration"),
        ("blip2-opt in two", "OPTForSequenceClassification"),
        ("blip2-opt in two", "OPTForQuestionAnswering"),
        ("nougat", "SpeechEncoderDecoderModel"),
        ("vila, flat", "LlavaMistralForCausalLM"),
        ("vila, flat", "LlavaMptForCausalLM"),
        ("vila, flat", "MoELLaVALlamaForCausalLM"),
        ("vila, flat", "BunnyLlamaForCausalLM"),
        ("vila", "LlavaLlamaForSequenceClassification"),
    ],
)
def test_checkpoints_made_for_another_task_are_refused(model: str, classes: str) -> None:
    name, config, second, _ = MODELS[model]
    error = refused(FamilyError, "MM711", family(name).facts, {**config, "architectures": [classes]}, second)
    assert classes in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("model", "classes"),
    [
        ("llava", ["LlavaForConditionalGeneration"]),
        ("llava", None),
        ("llava", []),
        ("llava", ["MyLlavaForConditionalGeneration"]),
        ("llava", ["LlavaModel", "LlavaForConditionalGeneration"]),
        ("vila", ["LlavaLlamaModel"]),
        ("vila, flat", ["LlavaLlamaForCausalLM"]),
        ("blip2-opt in two", ["OPTForCausalLM"]),
        ("blip2-opt in two", ["OPTModel"]),  # the head is the table of embeddings
        ("blip2-t5 in two", ["T5WithLMHeadModel"]),
        ("nougat", ["VisionEncoderDecoderModel"]),
    ],
)
def test_checkpoints_that_hold_everything_are_let_through(model: str, classes: list[str] | None) -> None:
    name, config, second, _ = MODELS[model]
    assert family(name).facts({**config, "architectures": classes}, second).family == name


def test_a_second_source_for_another_task_is_pointed_at() -> None:
    second = {**BLIP2, "architectures": ["Blip2ForImageTextRetrieval"]}
    error = refused(FamilyError, "MM711", family("blip2-opt").facts, {"model_type": "opt"}, second)
    assert error.blame == ("model.vision.source",)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("NaN", "`note` in config.json is NaN"),
        ("-Infinity", "`note` in config.json is -Infinity"),
        ("1e999", "`note` in config.json is Infinity"),
        ('{"a": {"b": [1, NaN]}}', "`note.a.b` in config.json is NaN"),
        ('"\\ud800"', "valid Unicode"),
        ('{"\\ud800": 1}', "valid Unicode"),
        ("[" * 300 + "]" * 300, "nested"),
    ],
)
def test_values_without_a_canonical_form_are_named_at_any_depth(model: str, text: str, told: str) -> None:
    name, config, second, _ = MODELS[model]
    spoilt = {**config, "note": json.loads(text)}
    error = refused(FamilyError, "MM411", family(name).facts, spoilt, second)
    assert told in error.message
    error.message.encode("utf-8")


@pytest.mark.parametrize(
    "directory", sorted(Path(__file__).parents[3].joinpath("examples", "models").iterdir())
)
def test_the_demo_models_are_let_through(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    built = [name for name in MODULES if _builds(name, config)]
    assert len(built) == 1


def _builds(name: str, config: dict[str, Any]) -> bool:
    try:
        family(name).facts(config)
    except FamilyError:
        return False
    return True
