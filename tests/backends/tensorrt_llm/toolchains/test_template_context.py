"""Names that recipes provide for templates: directories, questions, images, the fused MLP."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.model import ReservedWord
from mmbuild.backends.tensorrt_llm.toolchains.template_context import (
    directory_name,
    recipe_inference_context,
    variables,
)
from mmbuild.models.families import MODULES
from mmbuild.schema.model import Verify
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.toolchain.cases import everything, load

WORDS = [ReservedWord(word="vila", family="vila")]


def known(variant: ResolvedRecipe, version: str) -> dict[str, Any]:
    return variables(variant, load_toolchain(version))


@pytest.mark.parametrize(
    ("source", "family", "name"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava", "llava-1.5-7b-hf"),
        ("/models/llava/", "llava", "llava"),
        ("/models/my llava (new)", "llava", "my-llava-new-"),
        ("/models/-x", "llava", "x"),
        ("/models/..", "llava", "model"),
        ("Efficient-Large-Model/VILA1.5-3b", "vila", "vila1.5-3b"),  # the converter looks for small letters
        ("Efficient-Large-Model/vila-7B", "vila", "vila-7B"),
        ("/models/mine", "vila", "vila-mine"),
        ("/models/avila-llava", "llava", "avi-la-llava"),
        ("/models/VILA", "nougat", "vi-la"),
    ],
)
def test_a_models_directory_is_named_after_its_source(source: str, family: str, name: str) -> None:
    assert directory_name(source, family, WORDS) == name


@given(st.text(max_size=30), st.sampled_from(sorted(MODULES)))
def test_a_name_says_vila_exactly_where_the_family_is_vila(source: str, family: str) -> None:
    name = directory_name(source, family, WORDS)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    assert ("vila" in name) == (family == "vila")
    assert family == "vila" or "vila" not in name.lower()


@pytest.mark.parametrize("version", SUPPORTED)
def test_no_model_path_is_mistaken_for_vila_or_ends_in_a_slash(version: str) -> None:
    for variant in everything():
        path = known(variant, version)["model_dir"]
        assert ("vila" in path.lower()) == (variant.facts.family == "vila")
        assert not path.endswith("/")


def test_blip2_is_read_in_parts_or_whole_as_the_version_does() -> None:
    (variant,) = load("flan-t5-xl")
    assert known(variant, "0.10.0")["source_url"].endswith("google/flan-t5-xl")
    assert known(variant, "0.10.0")["visual_type"] == "flan-t5-xl"
    assert known(variant, "1.2")["source_url"].endswith("Salesforce/blip2-flan-t5-xl")
    assert known(variant, "1.2")["revision"] == variant.recipe.model.vision.revision


@pytest.mark.parametrize(
    ("recipe", "overrides", "fused"),
    [
        ("llava-fp16", ("engine.tensorrt_llm.fused_mlp=auto",), True),
        ("llava-fp16", ("engine.tensorrt_llm.fused_mlp=false",), False),
        ("llava-fp16", (), True),
        ("llava-int4", (), False),
        ("opt-2.7b", ("engine.quantization=none",), False),  # no gate to fuse
    ],
)
def test_the_mlp_is_fused_where_it_is_allowed(recipe: str, overrides: tuple[str, ...], fused: bool) -> None:
    assert known(load(recipe, *overrides)[0], "0.10.0")["fused_mlp"] is fused


def with_verify(recipe: str, **verify: Any) -> ResolvedRecipe:
    (variant,) = load(recipe)
    return replace(variant, recipe=variant.recipe.model_copy(update={"verify": Verify(**verify)}))


def test_the_recipe_s_question_and_picture_are_used() -> None:
    variant = with_verify("llava-int4", prompts=("How many?", "Which?"), images=("/a.png",), max_new_tokens=7)
    requested = recipe_inference_context(variant, load_toolchain("0.12.0").families["llava"], "run")
    assert requested == {
        "mode": "run",
        "prompt": "How many?",
        "image": "/a.png",
        "max_new_tokens": 7,
        "stated": True,
    }
    profiled = recipe_inference_context(variant, load_toolchain("0.12.0").families["llava"], "profile")
    assert {**profiled, "mode": "run"} == requested


def test_the_accuracy_check_asks_upstreams_own_question() -> None:
    variant = with_verify("llava-int4", prompts=("How many?",), images=("/a.png",), max_new_tokens=7)
    entry = load_toolchain("0.12.0").families["llava"]
    requested = recipe_inference_context(variant, entry, "check_accuracy")
    assert (requested["prompt"], requested["image"], requested["max_new_tokens"]) == (entry.prompt, None, 30)


def test_an_answer_is_never_longer_than_the_engine_allows() -> None:
    variant = with_verify("llava-int4", max_new_tokens=4096)
    entry = load_toolchain("1.2").families["llava"]
    assert (
        recipe_inference_context(variant, entry, "run")["max_new_tokens"]
        == variant.recipe.engine.max_output_len
    )
    (short,) = load("llava-int4", "engine.max_output_len=5")
    assert recipe_inference_context(short, entry, "check_accuracy")["max_new_tokens"] == 5


def test_newer_vila_and_llava_get_their_question_after_the_picture() -> None:
    variant = with_verify("vila1.5-3b-fp16", prompts=("How many?",))
    assert (
        recipe_inference_context(variant, load_toolchain("1.2").families["vila"], "run")["prompt"]
        == "<image>\n How many?"
    )
    assert (
        recipe_inference_context(variant, load_toolchain("0.10.0").families["vila"], "run")["prompt"]
        == "How many?"
    )


def test_nougat_has_no_prompt() -> None:
    variant = with_verify("nougat-base", prompts=("How many?",))
    for version in SUPPORTED:
        assert (
            recipe_inference_context(variant, load_toolchain(version).families["nougat"], "run")["prompt"]
            is None
        )
