"""The family that builds a model is identified from its config.json, or the reason why none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mmbuild.models.families import MODULES, FamilyError, family
from mmbuild.models.families.recognize import builder, is_original_layout, similar_kind, types_of
from mmbuild.models.sources.config import read_config, recorded_models
from support.errors import refused

OWN: dict[str, Any] = {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
VILA = {"model_type": "llava_llama", "llm_cfg": {}}
NOUGAT = {
    "model_type": "vision-encoder-decoder",
    "encoder": {"model_type": "donut-swin"},
    "decoder": {"model_type": "mbart"},
}
T5 = {"model_type": "blip-2", "text_config": {"model_type": "t5"}}
MODELS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llava", "text_config": {}}, "llava"),
    ({"model_type": "llava"}, "llava"),
    (OWN, "vila"),
    ({**OWN, "model_type": "llava_llama"}, "vila"),
    (VILA, "vila"),
    ({"model_type": "blip-2"}, "blip2-opt"),
    (T5, "blip2-t5"),
    ({"model_type": "opt"}, "blip2-opt"),
    ({"model_type": "t5"}, "blip2-t5"),
    (NOUGAT, "nougat"),
]


@pytest.mark.parametrize(("config", "right"), MODELS)
def test_the_family_that_builds_a_model(config: dict[str, Any], right: str) -> None:
    assert builder(config) == right
    assert config["model_type"] in types_of(right)


@pytest.mark.parametrize(("config", "right"), MODELS)
@pytest.mark.parametrize("name", sorted(MODULES))
def test_another_family_names_it(config: dict[str, Any], right: str, name: str) -> None:
    if name == right or config["model_type"] in types_of(name):
        return  # the family reads it, or finds the difference further in
    error = refused(FamilyError, "MM410", family(name).facts, config)
    assert error.hint
    assert f"set model.family to `{right}`" in error.hint


def test_every_recorded_model_has_one(tmp_path: Path) -> None:
    for repo in set(recorded_models()) - {"openai/clip-vit-large-patch14-336"}:
        assert builder(read_config(f"hf://{repo}", None, tmp_path, offline=True).config) in MODULES


def test_llava_s_own_layout_names_what_the_other_family_needs() -> None:
    error = refused(FamilyError, "MM410", family("llava").facts, OWN)
    assert "LLaVA's own layout" in error.message
    assert error.hint
    assert "`vila`" in error.hint
    assert "vision: {source: hf://openai/clip-vit-large-patch14-336}" in error.hint


@pytest.mark.parametrize("tower", [None, "./clip", "/models/clip", 3])
def test_a_tower_that_is_not_a_repository_is_not_recommended(tower: object) -> None:
    error = refused(FamilyError, "MM410", family("llava").facts, {**OWN, "mm_vision_tower": tower})
    assert error.hint
    assert "hf://openai/clip-vit-large-patch14-336" in error.hint


def test_transformers_layout_is_not_taken_for_llava_s_own() -> None:
    assert not is_original_layout({**OWN, "text_config": {}})
    error = refused(FamilyError, "MM411", family("vila").facts, {"model_type": "llava", "text_config": {}})
    assert error.blame == ("model.family", "model.source")
    assert error.hint == "set model.family to `llava`, which builds this model"


UNBUILT = [
    "llava_next", "llava_next_video", "llava_onevision", "video_llava", "vipllava", "bunny-phi", "bunny-llama",
    "llava_mistral", "llava_mpt", "llava_qwen", "llava-phi", "moe_llava_phi", "mixtral", "instructblip",
    "instructblipvideo", "blip", "nougat", "donut", "trocr", "mt5", "clip", "siglip", "siglip_vision_model",
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(MODULES))
@pytest.mark.parametrize("kind", UNBUILT)
def test_models_that_resemble_a_family_s_are_refused_with_the_reason(kind: str, name: str) -> None:
    error = refused(FamilyError, "MM410", family(name).facts, {"model_type": kind, "text_config": {}})
    row = similar_kind(model_type=kind)
    assert row is not None
    assert f"not supported: {row['why']}" in error.message
    assert error.hint == row["instead"]
    assert error.blame == ("model.source",)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "mllama", "internvl", "paligemma", "gpt2", "", "LLAVA"])
def test_other_models_are_not_supported_and_those_that_are_are_listed(kind: str) -> None:
    error = refused(FamilyError, "MM410", family("llava").facts, {"model_type": kind})
    assert "not supported" in error.message
    assert error.hint
    for name in MODULES:
        assert f"family {name}" in error.hint


@pytest.mark.parametrize("kind", [None, 3, ["llava"], {"llava": 1}, True])
def test_a_model_type_that_is_none_is_a_finding(kind: object) -> None:
    assert refused(FamilyError, "MM410", family("nougat").facts, {"model_type": kind}).hint
    assert refused(FamilyError, "MM410", family("nougat").facts, {}).hint


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        ("llava", {"model_type": "llava", "text_config": {"model_type": "mistral"}}, "no family builds"),
        ("llava", {"model_type": "llava", "text_config": {"model_type": "qwen2"}}, "no family builds"),
        (
            "llava",
            {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}},
            "no family",
        ),
        ("blip2-opt", T5, "`blip2-t5`"),
        ("blip2-t5", {"model_type": "blip-2"}, "`blip2-opt`"),
        ("nougat", {**NOUGAT, "decoder": {"model_type": "trocr"}}, "no family builds"),
        (
            "vila",
            {**VILA, "llm_cfg": {"model_type": "qwen2"}, "vision_tower_cfg": {}, "mm_projector_cfg": {}},
            "no",
        ),
    ],
)
def test_a_section_of_another_kind_says_whether_any_family_builds_it(
    name: str, config: dict[str, Any], told: str
) -> None:
    error = refused(FamilyError, "MM410", family(name).facts, config)
    assert error.hint
    assert told in error.hint


def test_no_model_that_a_family_builds_resembles_one_that_none_does() -> None:
    for config, _ in MODELS:
        assert similar_kind(model_type=config["model_type"]) is None


def test_rows_of_transformers_models_name_kinds_that_exist() -> None:
    known = [kind for kind in CONFIG_MAPPING if similar_kind(model_type=kind) is not None]
    assert {
        "llava_next",
        "llava_onevision",
        "video_llava",
        "vipllava",
        "instructblip",
        "blip",
        "trocr",
    } <= set(known)
