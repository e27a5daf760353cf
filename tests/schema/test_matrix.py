"""``matrix``: a variant for each combination, under a name that says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.projects.recipe_project import RECIPE, codes, load, only, pointed


def names(tmp_path: Path, matrix: str, *overrides: str) -> list[str]:
    result = load(tmp_path, f"{RECIPE}matrix:\n{matrix}", *overrides)
    assert codes(result) == []
    return [variant.name for variant in result.variants]


def test_quantization_is_short_for_the_engines(tmp_path: Path) -> None:
    result = load(tmp_path, RECIPE + "matrix: {quantization: [none, int8, int4]}\n")
    assert [(v.name, v.recipe.engine.quantization.algorithm.value) for v in result.variants] == [
        ("small-none", "none"),
        ("small-int8", "int8"),
        ("small-int4", "int4"),
    ]
    assert all(variant.recipe.name == variant.name for variant in result.variants)
    assert all(variant.recipe.matrix is None for variant in result.variants)


def test_axes_multiply(tmp_path: Path) -> None:
    matrix = "  quantization: [int8, int4]\n  big: {key: engine.max_batch_size, values: [1, 4]}\n"
    assert names(tmp_path, matrix) == [
        "small-int8-big1",
        "small-int8-big4",
        "small-int4-big1",
        "small-int4-big4",
    ]


def test_a_dotted_key_names_an_axis(tmp_path: Path) -> None:
    assert names(tmp_path, "  visual.dtype: [float16, float32]") == ["small-float16", "small-float32"]


def test_a_mapping_is_a_value_too(tmp_path: Path) -> None:
    matrix = "  quantization: [int8, {algorithm: int4_awq, group_size: 64}]"
    assert names(tmp_path, matrix) == ["small-int8", "small-int4_awq_64"]


def test_a_value_typed_with_set_pins_its_axis(tmp_path: Path) -> None:
    matrix = "  quantization: [none, int8, int4]"
    assert names(tmp_path, matrix, "engine.quantization=int8") == ["small-int8"]


@pytest.mark.parametrize(
    ("matrix", "code", "caret"),
    [
        ("{quantisation: [int8]}", "MM124", "quantisation"),
        ("{engine.bach: [1]}", "MM124", "engine.bach"),
        ("{x: {key: engine, values: [1]}}", "MM124", "x"),
        ("{quantization: int8}", "MM124", "int8"),
        ("{quantization: []}", "MM124", "["),
        ("[int8]", "MM124", "["),
        ("{quantization: [int8, int8]}", "MM126", "int8"),
        ("{quantization: [int8, int5]}", "MM112", "int5"),
        (
            f"{{max_batch_size: {list(range(1, 102))}, max_beam_width: {list(range(1, 11))}}}",
            "MM125",
            "matrix",
        ),
    ],
)
def test_a_faulty_axis_is_underlined(tmp_path: Path, matrix: str, code: str, caret: str) -> None:
    found = only(load(tmp_path, f"{RECIPE}matrix: {matrix}\n"))
    assert (found.code, pointed(found)) == (code, caret)


def test_a_fault_that_all_variants_share_is_reported_once(tmp_path: Path) -> None:
    recipe = RECIPE.replace("float32", "float31") + "matrix: {quantization: [none, int8, int4]}\n"
    assert only(load(tmp_path, recipe)).code == "MM112"


def test_a_fault_of_one_variant_leaves_the_others(tmp_path: Path) -> None:
    result = load(tmp_path, RECIPE + "matrix: {tensor_parallel: [1, 3, 4]}\n")
    assert codes(result) == ["MM147"]
    assert pointed(only(result)) == "3"
    assert [variant.name for variant in result.variants] == [
        "small-tensor_parallel1",
        "small-tensor_parallel4",
    ]
