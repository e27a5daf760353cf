"""``matrix``: a variant for each combination, under a name that says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.base.yaml_nodes import Source, plain, replace_at
from mmbuild.base.yaml_parser import parse, split_lines
from mmbuild.schema.explicit_values import explicit_values
from mmbuild.schema.matrix import expand
from mmbuild.schema.overrides import parse_overrides
from support.examples import examples
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


def test_a_section_outside_engine_is_an_axis_as_a_whole(tmp_path: Path) -> None:
    matrix = "  target: [{device: cpu, isa: avx2}, {device: cpu, isa: avx512}]"
    assert names(tmp_path, matrix) == ["small-cpu_avx2", "small-cpu_avx512"]


@pytest.mark.parametrize(
    ("override", "variants"),
    [
        (
            "engine.quantization.algorithm=int4",
            {"small-int4": ("int4", None), "small-int4_64": ("int4", 64)},
        ),
        (
            "engine.quantization.group_size=128",
            {"small-int8_128": ("int8", 128), "small-int4_awq_128": ("int4_awq", 128)},
        ),
        (
            "engine={backend: hf, max_input_len: 99, max_output_len: 9, quantization: int4}",
            {"small-int4": ("int4", None)},
        ),
        (
            "engine={backend: hf, max_input_len: 99, max_output_len: 9}",
            {"small-int8": ("int8", None), "small-int4_awq_64": ("int4_awq", 64)},
        ),
        ("engine.quantization=", {"small-quantizationNone": (None, None)}),
    ],
)
def test_an_axis_never_takes_back_what_set_says(
    override: str, variants: dict[str, tuple[str | None, int | None]]
) -> None:
    recipe = RECIPE + "matrix: {quantization: [int8, {algorithm: int4_awq, group_size: 64}]}\n"
    root, _ = parse(Source("recipe.yaml", split_lines(recipe)))
    overrides, _ = parse_overrides([override])
    assert root is not None
    for item in overrides:
        root = replace_at(root, item.key.split("."), item.value)
    expanded, findings = expand(root, overrides)
    assert findings == []
    stated = {f"small{name}": plain(node.value["engine"])["quantization"] for name, node in expanded}
    assert {name: _pair(value) for name, value in stated.items()} == variants


def _pair(value: Any) -> tuple[str | None, int | None]:
    """Algorithm and group size of a quantization as it is written."""
    return (value["algorithm"], value.get("group_size")) if isinstance(value, dict) else (value, None)


VALUES: dict[str, list[Any]] = {
    "engine.quantization": ["none", {"algorithm": "int4_awq", "group_size": 64}, {"group_size": 128}],
    "engine.quantization.algorithm": ["int8", "int4"],
    "engine.quantization.group_size": [64, 128],
    "engine.max_batch_size": [1, 2],
    "visual": [{"dtype": "float32"}, {"backend": "torch"}],
    "visual.dtype": ["float16", "bfloat16"],
}
SETTINGS = VALUES | {"engine": [{"backend": "hf"}, {"backend": "torch", "quantization": "int4"}]}


@settings(max_examples=examples(200))
@given(
    axes=st.sets(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3),
    stated=st.lists(
        st.sampled_from([(key, value) for key in SETTINGS for value in SETTINGS[key]]), max_size=3
    ),
)
def test_what_set_says_holds_in_each_variant(axes: set[str], stated: list[tuple[str, Any]]) -> None:
    matrix = {f"x{number}": {"key": key, "values": VALUES[key]} for number, key in enumerate(sorted(axes))}
    root, _ = parse(Source("recipe.yaml", (json.dumps({"engine": {}, "matrix": matrix}),)))
    said, _ = parse(Source("nothing", ("{}",)))
    overrides, findings = parse_overrides([f"{key}={json.dumps(value)}" for key, value in stated])
    assert (root is None or said is None, findings) == (False, [])
    for item in overrides:
        root, said = (replace_at(node, item.key.split("."), item.value) for node in (root, said))
    variants, findings = expand(root, overrides)
    if findings:
        assert {item.code for item in findings} == {"MM124"}, "two axes over one key"
        return
    assert variants
    assert len({name for name, _ in variants}) == len(variants)
    for _, node in variants:
        assert explicit_values(said).items() <= explicit_values(node).items()


@pytest.mark.parametrize("order", ["section first", "key first"])
def test_a_key_joins_a_section_that_another_axis_sets(tmp_path: Path, order: str) -> None:
    axes = [
        "  target: [{device: cpu}]\n",
        "  isa: {key: target.isa, values: [avx2, avx512]}\n",
    ]
    matrix = "".join(axes if order == "section first" else reversed(axes))
    result = load(tmp_path, f"{RECIPE}matrix:\n{matrix}")
    assert codes(result) == []
    targets = [variant.recipe.target for variant in result.variants]
    assert [(item.device, item.isa) for item in targets if item] == [("cpu", "avx2"), ("cpu", "avx512")]


@pytest.mark.parametrize(
    "matrix",
    [
        "{max_batch_size: [1, 2], b: {key: engine.max_batch_size, values: [3, 4]}}",
        "{quantization: [int8], b: {key: engine.quantization.algorithm, values: [none]}}",
        "{b: {key: engine.quantization.algorithm, values: [none]}, quantization: [{algorithm: int8}]}",
    ],
)
def test_two_axes_over_one_key_are_refused(tmp_path: Path, matrix: str) -> None:
    result = load(tmp_path, f"{RECIPE}matrix: {matrix}\n")
    assert codes(result) == ["MM124"]
    assert "both set" in only(result).message


@pytest.mark.parametrize(
    ("matrix", "code", "caret"),
    [
        ("{quantisation: [int8]}", "MM124", "quantisation"),
        ("{engine.bach: [1]}", "MM124", "engine.bach"),
        ("{x: {key: engine, values: [1]}}", "MM124", "x"),
        ("{x: {key: name, values: [a, b]}}", "MM124", "x"),
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
