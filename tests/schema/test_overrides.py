"""``--set``: typed values go over the recipe, and faults point at the argument."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.examples import examples
from support.projects.recipe_project import RECIPE, codes, load, only, pointed


def test_a_value_replaces_the_recipes(tmp_path: Path) -> None:
    (variant,) = load(tmp_path, RECIPE, "engine.max_batch_size=1", "engine.quantization=int4").variants
    assert variant.recipe.engine.max_batch_size == 1
    assert variant.recipe.engine.quantization.algorithm == "int4"


def test_a_section_that_is_absent_is_made(tmp_path: Path) -> None:
    (variant,) = load(tmp_path, RECIPE, "target.device=cuda", "target.sm=90").variants
    assert variant.recipe.target is not None
    assert variant.recipe.target.sm == 90


def test_an_option_goes_into_a_quantization_given_as_a_word(tmp_path: Path) -> None:
    recipe = RECIPE.replace("int8", "int4_awq")
    (variant,) = load(tmp_path, recipe, "engine.quantization.group_size=64").variants
    quantization = variant.recipe.engine.quantization
    assert (quantization.algorithm, quantization.group_size) == ("int4_awq", 64)


def test_later_wins_and_empty_takes_back(tmp_path: Path) -> None:
    recipe = RECIPE + "  max_multimodal_len: 1\n"
    sets = ("engine.max_batch_size=4", "engine.max_batch_size=5", "engine.max_multimodal_len=")
    (variant,) = load(tmp_path, recipe, *sets).variants
    assert variant.recipe.engine.max_multimodal_len == 5 * 3 * 16


@pytest.mark.parametrize(
    ("argument", "code", "caret"),
    [
        ("engine.backend=tocrh", "MM112", "tocrh"),
        ("engin.backend=torch", "MM103", "engin.backend"),
        ("engine.batch=1", "MM103", "engine.batch"),
        ("engine.max_batch_size=two", "MM114", "two"),
        ("engine.max_batch_size=no", "MM108", "no"),
        ("engine.max_batch_size=[1", "MM101", "["),
        ("engine.max_multimodal_len=7", "MM141", "7"),
        ("nothing", "MM123", "nothing"),
        ("extends=a.yaml", "MM123", "extends"),
        ("=1", "MM123", "="),
        ("a..b=1", "MM123", "a..b"),
        ("name=#x", "MM123", "#x"),
        ("name=a #x", "MM123", "#x"),
        ("engine.dtype=float16\t# for now", "MM123", "# for now"),
        ("engine.dtype='float16' #", "MM123", "#"),
        ("verify.prompts=[a] # b", "MM123", "# b"),
        ("verify.prompts=[how many #s?]", "MM123", "#s?]"),
        ("verify.prompts=\n- a\n- b # c", "MM123", "# c"),
    ],
)
def test_a_fault_points_into_the_argument(tmp_path: Path, argument: str, code: str, caret: str) -> None:
    found = only(load(tmp_path, RECIPE, argument))
    assert (found.code, found.file) == (code, f"--set {argument}")
    assert pointed(found) == caret


@pytest.mark.parametrize(
    "value", ["[a#b]", "['a #b']", '["a #b"]', "[a, 'how many #s?']", "\n- |\n  a # b\n", "\n- a # b\n- '#c'"]
)
def test_a_number_sign_that_is_no_comment_at_the_end_is_taken(tmp_path: Path, value: str) -> None:
    (variant,) = load(tmp_path, RECIPE + "verify: {images: []}\n", f"verify.prompts={value}").variants
    assert variant.recipe.verify is not None
    assert list(variant.recipe.verify.prompts) == yaml.safe_load(value)


def test_a_recipe_without_an_override_that_was_refused_is_not_loaded(tmp_path: Path) -> None:
    assert not load(tmp_path, RECIPE, "engine.max_batch_size=1", "engine.dtype=float16 # x").variants


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    found = only(load(tmp_path, RECIPE, "name=\udcff"))
    assert (found.code, found.file) == ("MM123", "--set name=\\udcff")


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["", "name=", "engine=", "engine.quantization=", "model.source="]), st.text(max_size=20)
)
def test_any_argument_yields_findings_at_most(tmp_path: Path, key: str, text: str) -> None:
    result = load(tmp_path, RECIPE, key + text, offline=True)
    assert result.variants or result.diagnostics


def test_a_fault_in_one_argument_does_not_hide_others(tmp_path: Path) -> None:
    assert codes(load(tmp_path, RECIPE, "x", "engine.backend=y")) == ["MM112", "MM123"]
