"""The way in as a whole: sources, shipped recipes, mutations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmbuild.base.yaml_parser import split_lines
from mmbuild.pipeline.load import load_recipes
from mmbuild.schema.model import Algorithm, Backend, Dtype
from mmbuild.schema.validation import every_key
from support.examples import examples
from support.projects.recipe_project import CONFIG, RECIPE, load, only, pointed, write_project

RECIPES = Path(__file__).parents[2] / "recipes"


def test_every_recipe_refers_to_an_existing_schema() -> None:
    for path in RECIPES.rglob("*.yaml"):
        first = path.read_text("utf-8").splitlines()[0]
        _, mark, target = first.partition("# yaml-language-server: $schema=")
        assert mark, path
        assert (path.parent / target).resolve() == (RECIPES / "schema.json").resolve()


def test_recipe_from_the_design() -> None:
    (variant,) = load_recipes([RECIPES / "llava-int4.yaml"], offline=True).variants
    assert variant.name == "llava-1.5-7b-int4"
    assert variant.recipe.engine.max_multimodal_len == 576
    assert variant.facts.llm.vocab_size == 32064
    assert variant.root == RECIPES.parent


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("nowhere", "MM130"),
        ("dummy://./nowhere", "MM130"),
        ("hf://one", "MM131"),
        ("s3://bucket/x", "MM131"),
        ("dummy://no/body", "MM133"),
        ("hf://no/body", "MM133"),
    ],
)
def test_unavailable_source_is_reported_at_its_key(tmp_path: Path, source: str, code: str) -> None:
    result = load(tmp_path, RECIPE.replace("source: model", f"source: {source}"), offline=True)
    found = only(result)
    assert (found.code, found.path, pointed(found)) == (code, "model.source", source)


def test_model_of_another_family_is_reported_at_the_family(tmp_path: Path) -> None:
    found = only(load(tmp_path, config={**CONFIG, "model_type": "blip-2"}))
    assert (found.code, pointed(found)) == ("MM410", "llava")


@pytest.mark.parametrize(
    "change",
    [
        {"text_config": 3},
        {"text_config": {**CONFIG["text_config"], "hidden_size": "wide"}},
        {"text_config": {**CONFIG["text_config"], "hidden_size": None}},
        {"image_token_id": None},
        {"text_config": {**CONFIG["text_config"], "num_attention_heads": 0}},
        {"vision_config": {**CONFIG["vision_config"], "patch_size": 0}},
        {"vision_config": {**CONFIG["vision_config"], "image_size": [28, 28]}},
        {"vision_feature_select_strategy": "some"},
        {"text_config": {**CONFIG["text_config"], "rope_parameters": 3}},
    ],
)
def test_a_damaged_config_is_a_finding(tmp_path: Path, change: dict[str, Any]) -> None:
    found = only(load(tmp_path, config={**CONFIG, **change}))
    assert found.code == "MM411"
    assert pointed(found) == "model"


def test_two_files_with_one_name_are_refused(tmp_path: Path) -> None:
    first = write_project(tmp_path)
    second = tmp_path / "other.yaml"
    second.write_text(RECIPE, encoding="utf-8")
    assert only(load_recipes([first, second])).code == "MM126"


def test_a_model_is_read_once_for_all_variants(tmp_path: Path) -> None:
    result = load(tmp_path, RECIPE + "matrix: {quantization: [none, int8, int4]}\n")
    assert [file.name for file in result.files] == ["recipe.yaml", "config.json", "model"]


def test_dummy_weights_of_a_directory(tmp_path: Path) -> None:
    (variant,) = load(tmp_path, RECIPE.replace("source: model", "source: dummy://./model")).variants
    assert variant.recipe.model.source == f"dummy://{tmp_path / 'model'}"
    assert variant.facts.visual.num_visual_features == 16


def _fitting(recipe: dict[str, Any]) -> dict[str, Any]:
    """With ranks that leave the small model's layers wide enough to be quantized in groups or packed, and in 16 bits
    where TensorRT-LLM is to read what calibration gave."""
    engine = recipe["engine"]
    if engine["backend"] == "tensorrt-llm" and engine.get("quantization") in (
        "int4_awq",
        "smoothquant",
        "fp8",
    ):
        engine.pop("dtype", None)
    if engine.get("quantization", "none") != "none" and engine.get("tensor_parallel", 1) > 1:
        engine["tensor_parallel"] = 1
    return recipe


recipes = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "model": st.fixed_dictionaries({"family": st.just("llava"), "source": st.just("model")}),
        "engine": st.fixed_dictionaries(
            {
                "backend": st.sampled_from([item.value for item in Backend]),
                "max_input_len": st.integers(17, 128),
                "max_output_len": st.integers(1, 128),
            },
            optional={
                "dtype": st.sampled_from([item.value for item in Dtype]),
                "quantization": st.sampled_from([item.value for item in Algorithm]),
                "max_batch_size": st.integers(1, 64),
                "tensor_parallel": st.sampled_from([1, 2, 4, 8]),
            },
        ),
    },
    optional={
        "target": st.fixed_dictionaries({}, optional={"device": st.just("cuda"), "sm": st.integers(89, 99)}),
        "verify": st.fixed_dictionaries({"prompts": st.lists(st.text("abc? é", min_size=1), max_size=3)}),
    },
).map(_fitting)
quietly = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])


@quietly
@given(recipe=recipes)
def test_valid_recipe_keeps_its_values(tmp_path: Path, recipe: dict[str, Any]) -> None:
    result = load(tmp_path, yaml.safe_dump(recipe, allow_unicode=True))
    # That a server has no kernel for so small a model is a warning.
    assert [item for item in result.diagnostics if item.code != "MM886"] == []
    (variant,) = result.variants
    dumped = json.loads(variant.recipe.model_dump_json(exclude_unset=True))
    assert dumped["name"] == recipe["name"]
    for key, value in recipe["engine"].items():
        found = dumped["engine"][key]
        assert (found["algorithm"] if key == "quantization" else found) == value


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@quietly
@given(recipe=recipes, key=st.sampled_from(sorted(every_key())), value=anything)
def test_any_value_anywhere_yields_only_findings(
    tmp_path: Path, recipe: dict[str, Any], key: str, value: object
) -> None:
    place = recipe
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    place[last] = value
    text = yaml.safe_dump(recipe, allow_unicode=True)
    result = load(tmp_path, text, offline=True)
    assert result.variants or result.diagnostics
    for found in result.diagnostics:
        assert found.message
        assert found.code.startswith("MM")


edits = st.lists(
    st.tuples(st.integers(0, len(RECIPE)), st.integers(0, 3), st.text(max_size=3)), min_size=1, max_size=4
)


@quietly
@given(changes=edits)
def test_any_edit_of_the_text_yields_only_findings(
    tmp_path: Path, changes: list[tuple[int, int, str]]
) -> None:
    text = RECIPE
    for start, length, put in changes:
        text = text[:start] + put + text[start + length :]
    result = load(tmp_path, text.encode("utf-8", "replace").decode(), offline=True)
    assert result.variants or result.diagnostics
    for found in result.diagnostics:
        assert found.line <= len(split_lines(text))
        assert found.file


@quietly
@given(recipe=recipes, data=st.data())
def test_misspelt_key_is_underlined_and_corrected(
    tmp_path: Path, recipe: dict[str, Any], data: st.DataObject
) -> None:
    keys = [key for key in recipe["engine"] if key not in ("torch",)]
    key = data.draw(st.sampled_from(keys))
    recipe["engine"][f"{key}x"] = recipe["engine"].pop(key)
    result = load(tmp_path, yaml.safe_dump(recipe, allow_unicode=True))
    found = next(item for item in result.diagnostics if item.code == "MM103")
    assert (pointed(found), found.suggestion) == (f"{key}x", key)
