"""Lowering a calibrated recipe: one action in place of convert and quantize, keyed on the data it uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.base import PlanContext
from mmbuild.backends.lowering import calibration as lower_calibration
from mmbuild.backends.lowering.local_environment import PLAN_WITH_LOCK
from mmbuild.backends.torch.lower import lower
from mmbuild.base.optional_packages import install_hint
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.models.calibration_data.samples import CalibrationError
from support.models import calibration_files
from support.projects.recipe_project import RECIPE, load, png
from support.servers.data_set_hub import FIRST, REPO, SECOND, image_folder, picture, serving
from support.servers.hub import Hub

HOST = {"device": "cpu", "sm": None, "isa": "avx2"}
ASKED: dict[str, Any] = {"data": "data.jsonl", "samples": 3, "seed": 5}
Lowered = Callable[..., RecipeGraph]


@pytest.fixture
def lowered(tmp_path: Path) -> Lowered:
    """``lowered(algorithm, calibration)``: the graph of the small recipe; file digests depend on content."""
    calibration_files.write(tmp_path)

    def make(
        algorithm: str = "fp8",
        calibration: dict[str, Any] | None = None,
        host: dict[str, Any] = HOST,
        offline: bool = False,
        **keys: Any,
    ) -> RecipeGraph:
        request = {"algorithm": algorithm, **({"calibration": calibration} if calibration else {}), **keys}
        recipe = RECIPE.replace("quantization: int8", f"quantization: {json.dumps(request)}")
        (variant,) = load(tmp_path, recipe).variants
        return lower(variant, PlanContext(host, lambda path: path.read_text("latin-1"), offline))

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a data set in imagefolder layout."""
    with serving(image_folder(6), tmp_path / "cache", monkeypatch) as state:
        yield state


def quantize(graph: RecipeGraph) -> Action:
    return next(action for action in graph.actions if action.step == "quantize")


@pytest.mark.parametrize("algorithm", ["int4_awq", "smoothquant", "fp8"])
def test_calibration_reads_the_model_itself(lowered: Lowered, algorithm: str) -> None:
    graph = lowered(algorithm, ASKED)
    assert [action.step for action in graph.actions] == [
        "download", "quantize", "build_llm", "build_visual", "convert_visual", "assemble",
    ]  # fmt: skip
    action = quantize(graph)
    assert action.inputs == {"model": graph.actions[0].definition_key}
    assert action.params["algorithm"] == algorithm
    assert action.params["group_size"] == (64 if algorithm == "int4_awq" else None)
    assert "nvidia-modelopt" in action.toolchain
    assembled = next(action for action in graph.actions if action.step == "assemble")
    assert assembled.inputs["checkpoint"] == action.definition_key


def test_the_engine_is_compiled_for_its_groups(lowered: Lowered) -> None:
    compiled = [
        next(action.params for action in lowered(algorithm).actions if action.step == "build_llm")
        for algorithm in ("int4_awq", "fp8")
    ]
    assert [params["quant_algo"] for params in compiled] == ["W4A16_AWQ", "FP8"]
    assert compiled[0]["group_size"] == 64
    assert "group_size" not in compiled[1]


def test_the_data_file_and_the_selected_images_are_sources(lowered: Lowered, tmp_path: Path) -> None:
    action = quantize(lowered(calibration=ASKED))
    assert set(action.sources) == {"data", "image0", "image1", "image2"}
    assert action.locators["data"] == str(tmp_path / "data.jsonl")
    taken = {Path(action.locators[f"image{number}"]).name for number in range(3)}
    key = action.definition_key
    (tmp_path / next(iter(taken))).write_bytes(png(99))
    assert quantize(lowered(calibration=ASKED)).definition_key != key


def test_an_image_that_is_not_selected_does_not_change_the_key(lowered: Lowered, tmp_path: Path) -> None:
    action = quantize(lowered(calibration=ASKED))
    taken = {Path(place).name for place in action.locators.values()}
    other = next(name for name in (f"{number}.png" for number in range(8)) if name not in taken)
    (tmp_path / other).write_bytes(png(99))
    assert quantize(lowered(calibration=ASKED)).definition_key == action.definition_key


@pytest.mark.parametrize(
    "changed", [{"seed": 6}, {"samples": 4}, {"text_only": True}], ids=lambda changed: next(iter(changed))
)
def test_the_calibration_options_are_in_the_key(lowered: Lowered, changed: dict[str, Any]) -> None:
    first, other = quantize(lowered(calibration=ASKED)), quantize(lowered(calibration=ASKED | changed))
    assert first.definition_key != other.definition_key


def test_without_data_the_prompts_of_verify_are_used(lowered: Lowered) -> None:
    action = quantize(lowered())
    assert action.params["calibration"] == {"samples": 32, "seed": 0, "prompts": []}
    assert action.sources == {}


def test_on_cuda_it_requests_a_gpu_and_gpu_memory(lowered: Lowered) -> None:
    host = {"device": "cuda", "sm": 90, "isa": "avx2"}
    resources = quantize(lowered(host=host)).resources
    assert (resources.gpus, resources.gpu_memory > 0) == (1, True)
    assert quantize(lowered()).resources.gpus == 0


def test_a_model_too_large_for_the_gpu_is_planned_layer_by_layer(
    lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = {"device": "cuda", "sm": 90, "isa": "avx2"}
    monkeypatch.setattr(lower_calibration, "least_memory", lambda _: 80 << 30)
    whole = quantize(lowered(host=on_gpu))
    monkeypatch.setattr(lower_calibration, "least_memory", lambda _: whole.resources.gpu_memory - 1)
    split = quantize(lowered(host=on_gpu))
    assert split.resources.gpu_memory < whole.resources.gpu_memory
    assert split.resources.memory > whole.resources.memory
    assert split.definition_key == whole.definition_key, "the result is the same"


def test_a_missing_model_optimizer_is_reported_with_the_install_command(
    lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower_calibration, "OPTIMIZER", "a-package-that-nobody-wrote")
    with pytest.raises(CalibrationError, match="not installed") as caught:
        lowered()
    assert (caught.value.code, caught.value.hint) == ("MM462", install_hint("quantize") + PLAN_WITH_LOCK)


ON_HUB = {"data": f"hf://{REPO}", "samples": 3, "seed": 5}


def fetched(graph: RecipeGraph) -> Action:
    return next(action for action in graph.actions if action.step == "calibration_data")


def test_a_hub_data_set_is_fetched_at_its_commit_for_calibration_only(lowered: Lowered, hub: Hub) -> None:
    graph = lowered("int4_awq", ON_HUB)
    assert [action.step for action in graph.actions] == [
        "download", "calibration_data", "quantize", "build_llm", "build_visual", "convert_visual", "assemble",
    ]  # fmt: skip
    data, action = fetched(graph), quantize(graph)
    assert action.inputs == {"model": graph.actions[0].definition_key, "data": data.definition_key}
    assert (action.sources, data.sources, data.locators) == ({}, {}, {})
    assert data.params == {
        "repo": REPO, "commit": FIRST, "file": None, "samples": 3, "seed": 5, "text_only": False,
    }  # fmt: skip
    assert hub.fetch_counts() == {}, "no picture is fetched to plan"


def test_the_key_depends_on_the_commit_and_file_of_a_data_set_not_on_the_revision_name(
    lowered: Lowered, hub: Hub
) -> None:
    key = quantize(lowered(calibration=ON_HUB)).definition_key
    pinned = quantize(lowered(calibration=ON_HUB | {"revision": FIRST}))
    assert pinned.definition_key == key
    named = lowered(calibration=ON_HUB | {"data": f"hf://{REPO}/train/metadata.jsonl"})
    assert (fetched(named).params["file"], quantize(named).definition_key != key) == (
        "train/metadata.jsonl",
        True,
    )
    hub.commits[SECOND] = image_folder(6) | {"train/images/0.png": picture(77)}
    hub.branches["main"] = SECOND
    assert quantize(lowered(calibration=ON_HUB)).definition_key != key


def test_offline_a_branch_seen_before_resolves_and_others_can_be_planned(lowered: Lowered, hub: Hub) -> None:
    unknown = fetched(lowered(calibration=ON_HUB, offline=True)).params
    assert (unknown["commit"], unknown["revision"]) == (None, "main")
    online = lowered(calibration=ON_HUB)
    requested = list(hub.log)
    assert fetched(lowered(calibration=ON_HUB, offline=True)) == fetched(online)
    assert hub.log == requested


def test_a_data_set_of_tables_is_refused_before_any_work(lowered: Lowered, hub: Hub) -> None:
    hub.commits[FIRST] = {"data/train-00000-of-00001.parquet": b"PAR1"}
    with pytest.raises(CalibrationError, match="Parquet tables") as caught:
        lowered(calibration=ON_HUB)
    assert caught.value.code == "MM464"


@pytest.mark.parametrize("algorithm", ["int8", "int4"])
def test_weight_only_with_calibration_reads_the_model_and_the_converted_checkpoint(
    lowered: Lowered, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower_calibration, "OPTIMIZER", "a-package-that-nobody-wrote")
    graph = lowered(algorithm, ASKED)
    assert [action.step for action in graph.actions] == [
        "download", "convert", "quantize", "build_llm", "build_visual", "convert_visual", "assemble",
    ]  # fmt: skip
    download, convert, action = graph.actions[:3]
    assert action.inputs == {"model": download.definition_key, "checkpoint": convert.definition_key}
    assert set(action.sources) == {"data", "image0", "image1", "image2"}
    assert set(action.toolchain) == {"torch", "transformers"}
    plain = lowered(algorithm)
    compiled = [next(one for one in made.actions if one.step == "build_llm") for made in (graph, plain)]
    assert compiled[0] == compiled[1], "the engine is the same"
    assert quantize(plain).definition_key != action.definition_key
