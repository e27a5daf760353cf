"""Lowering for backend tensorrt-llm: the actions of a recipe and what their keys depend on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.backends.base import PlanContext
from mmbuild.backends.tensorrt_llm.lower import Environment, lower_toolchain
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, ToolchainError
from support.errors import refused
from support.toolchain.cases import MODELS, load

HERE = Environment('{"python": "/opt/venv/bin/python"}', {"tensorrt": "10.13.3"})


def lowered(
    *overrides: str, model: str = "llava-fp16", sm: int | None = 90, environment: Environment | None = HERE
) -> RecipeGraph:
    def digest(path: Path) -> str:
        return f"digest of {path.name}"

    variant, *_ = load(model, "engine.backend=tensorrt-llm", *overrides)
    return lower_toolchain(variant, PlanContext({"sm": sm}, digest, offline=True), environment)


def by_label(graph: RecipeGraph) -> dict[str, Action]:
    return {action.label.rpartition("/")[2]: action for action in graph.actions}


def changed(one: RecipeGraph, other: RecipeGraph) -> set[str]:
    first, second = by_label(one), by_label(other)
    assert set(first) == set(second)
    return {name for name in first if first[name].definition_key != second[name].definition_key}


# Only unquantized weights use the fused MLP.
UNFUSED = "engine.tensorrt_llm.fused_mlp=auto"


@pytest.mark.parametrize("model", MODELS)
def test_producers_come_first_and_the_engine_is_assembled(model: str) -> None:
    vila = ("engine.tensorrt_llm.toolchain='1.2'",)
    graph = lowered(*vila, model=model)
    known: set[str] = set()
    for action in graph.actions:
        assert set(action.inputs.values()) <= known, action.label
        known.add(action.definition_key)
    labels = by_label(graph)
    assert labels["assemble"].definition_key == graph.engine
    assert {"build_llm", "build_visual", "assemble"} <= set(labels)
    assert ("prepare" in labels) == model.startswith("vila")


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ("engine.max_output_len=50", {"build_llm", "assemble"}),
        ("engine.max_batch_size=4", {"build_llm", "build_visual", "assemble"}),
        ("engine.tensor_parallel=2", {"convert", "build_llm", "assemble"}),
        ("visual.dtype=float32", {"assemble"}),
    ],
)
def test_a_key_changes_only_if_a_command_does(change: str, steps: set[str]) -> None:
    more = ("engine.max_multimodal_len=null",) if "batch" in change else ()
    assert changed(lowered(), lowered(change, *more)) == steps


def test_all_precisions_of_a_model_share_one_visual_engine() -> None:
    plain, packed = lowered(UNFUSED), lowered(UNFUSED, "engine.quantization=int4")
    assert changed(plain, packed) == {"convert", "build_llm", "assemble"}


def test_engines_and_packed_weights_are_specific_to_one_architecture() -> None:
    assert changed(lowered(), lowered(sm=80)) == {"build_llm", "build_visual", "assemble"}
    packed = (UNFUSED, "engine.quantization=int8")
    assert changed(lowered(*packed), lowered(*packed, sm=80)) == {
        "convert",
        "build_llm",
        "build_visual",
        "assemble",
    }


def test_the_recipes_architecture_overrides_the_hosts() -> None:
    stated = lowered("target={device: cuda, sm: 80}", sm=90)
    assert by_label(stated)["build_llm"].target == {"device": "cuda", "sm": 80, "isa": None}


@pytest.mark.parametrize(("sm", "fits"), [(80, False), (89, True), (90, True), (None, True)])
def test_the_hosts_gpu_must_run_the_number_format(sm: int | None, fits: bool) -> None:
    fp8 = (UNFUSED, "engine.quantization=fp8")
    if fits:
        assert "quantize" in by_label(lowered(*fp8, sm=sm))
    else:
        refused(ToolchainError, "MM640", lowered, *fp8, sm=sm)


def test_another_tensorrt_builds_another_engine() -> None:
    other = Environment(HERE.locator, {"tensorrt": "10.14.0"})
    assert changed(lowered(), lowered(environment=other)) == {
        "convert",
        "build_llm",
        "build_visual",
        "assemble",
    }


def test_the_location_of_an_environment_is_not_in_keys() -> None:
    moved = Environment('{"python": "/home/me/bin/python"}', HERE.installed)
    assert changed(lowered(), lowered(environment=moved)) == set()


def test_a_plan_needs_no_environment() -> None:
    assert set(by_label(lowered(environment=None))) == set(by_label(lowered()))


@pytest.mark.parametrize("version", SUPPORTED)
def test_calibrated_weights_come_from_the_versions_own_quantizer(version: str) -> None:
    variants = load(
        "llava-7b-calibrated", "engine.backend=tensorrt-llm", f"engine.tensorrt_llm.toolchain='{version}'"
    )
    if version != "1.2":
        assert variants == ()  # refused, with the reason: tests/schema
        return
    for variant in variants:
        graph = lower_toolchain(variant, PlanContext({"sm": 90}, str, offline=True), HERE)
        assert "quantize" in by_label(graph)
        assert "convert" not in by_label(graph)


def test_verify_requests_one_gpu_per_rank() -> None:
    graph = lowered("engine.tensor_parallel=2", "verify={prompts: [why]}")
    assert by_label(graph)["verify"].resources.gpus == 2
    assert by_label(graph)["build_llm"].resources.gpus == 1
