"""Backend tensorrt-llm with calibration data: mmbuild's own action writes the checkpoint that the builder reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.base import PlanContext
from mmbuild.backends.lowering import calibration as lower_calibration
from mmbuild.backends.lowering import local_environment
from mmbuild.backends.tensorrt_llm.lower import Environment, lower_toolchain
from mmbuild.backends.tensorrt_llm.output_checks.model import Expected
from mmbuild.backends.torch.lower import lower
from mmbuild.base.optional_packages import MissingPackageError, install_hint
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.models.calibration_data.samples import CalibrationError
from mmbuild.schema.model import Calibration
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, ToolchainError
from support.errors import refused
from support.models import calibration_files
from support.projects.recipe_project import RECIPE, load, png
from support.servers.data_set_hub import REPO, image_folder, serving
from support.servers.hub import Hub
from support.toolchain.cases import load as load_variants

HERE = Environment('{"python": "/opt/venv/bin/python"}', {"tensorrt": "10.13.3"})
PICTURES = Path(__file__).parents[3] / "examples/calibration/vila.jsonl"
# A CPU-only torch on a host with a GPU of SM 90.
BESIDE = {"device": "cpu", "sm": 90, "isa": "avx2"}
ON_GPU = {"device": "cuda", "sm": 90, "isa": "avx2"}
DATA: dict[str, Any] = {"data": "data.jsonl", "samples": 3, "seed": 5}
NAMES = {
    "int4_awq": "W4A16_AWQ",
    "smoothquant": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "fp8": "FP8",
}
TORCH_HINT = install_hint("torch") + local_environment.PLAN_WITH_LOCK
QUANTIZE_HINT = install_hint("quantize") + local_environment.PLAN_WITH_LOCK
Lowered = Callable[..., RecipeGraph]


@pytest.fixture
def lowered(tmp_path: Path) -> Lowered:
    """``lowered(backend, algorithm, calibration)``: the graph of the small recipe in float16."""
    calibration_files.write(tmp_path)

    def make(
        backend: str = "tensorrt-llm",
        algorithm: str = "fp8",
        calibration: dict[str, Any] | None = DATA,
        own: dict[str, Any] = BESIDE,
        version: str = "1.2",
        *more: str,
    ) -> RecipeGraph:
        request = {"algorithm": algorithm, **({"calibration": calibration} if calibration else {})}
        recipe = RECIPE.replace("quantization: int8", f"quantization: {json.dumps(request)}")
        chosen = (f"engine.backend={backend}", f"engine.tensorrt_llm.toolchain='{version}'", *more)
        (variant,) = load(tmp_path, recipe, "engine.dtype=float16", *chosen).variants

        def digest(path: Path) -> str:
            return path.read_text("latin-1")

        if backend == "torch":
            return lower(variant, PlanContext(own, digest))
        return lower_toolchain(variant, PlanContext({**own, "sm": 90}, digest), HERE)

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(image_folder(6), tmp_path / "cache", monkeypatch) as state:
        yield state


def labels(graph: RecipeGraph) -> dict[str, Action]:
    return {action.label.rpartition("/")[2]: action for action in graph.actions}


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("algorithm", NAMES)
def test_the_builder_reads_what_mmbuild_calibrated(lowered: Lowered, algorithm: str, version: str) -> None:
    found = labels(lowered(algorithm=algorithm, version=version))
    assert {name: action.step for name, action in found.items()} == {
        "download": "download",
        "quantize": "quantize",
        "build_llm": "toolchain",
        "build_visual": "toolchain",
        "assemble": "toolchain_engine",
    }
    assert list(found) == ["download", "quantize", "build_llm", "build_visual", "assemble"]
    build = found["build_llm"]
    assert build.inputs == {"checkpoint": found["quantize"].definition_key}
    (command,) = build.params["commands"]
    argv = command["argv"]
    assert argv[argv.index("--checkpoint_dir") + 1] == build.params["reads"]["checkpoint"]
    # The engine's expectations follow from this checkpoint, not from one of the version's own quantizer.
    required = {
        item.key: item.values for item in Expected.model_validate(command["expected"]).places[0].config
    }
    assert required["pretrained_config.quantization.quant_algo"] == (NAMES[algorithm],)


@pytest.mark.parametrize("own", [BESIDE, ON_GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("algorithm", NAMES)
def test_both_backends_share_the_checkpoint(lowered: Lowered, algorithm: str, own: dict[str, Any]) -> None:
    embedded_engine, tensorrt = (
        labels(lowered(backend, algorithm, own=own)) for backend in ("torch", "tensorrt-llm")
    )
    assert embedded_engine["quantize"] == tensorrt["quantize"]
    assert embedded_engine["download"] == tensorrt["download"]
    assert embedded_engine["assemble"].definition_key != tensorrt["assemble"].definition_key


def test_it_is_calibrated_where_mmbuilds_torch_runs_and_built_for_the_gpu(lowered: Lowered) -> None:
    beside, on_gpu = labels(lowered(own=BESIDE)), labels(lowered(own=ON_GPU))
    assert beside["quantize"].target == {"device": "cpu", "sm": None, "isa": "avx2"}
    assert (beside["quantize"].resources.gpus, on_gpu["quantize"].resources.gpus) == (0, 1)
    assert on_gpu["quantize"].target == ON_GPU
    assert on_gpu["quantize"].resources.gpu_memory > 0
    for found in (beside, on_gpu):
        assert found["build_llm"].target == {"device": "cuda", "sm": 90, "isa": None}
        assert found["build_llm"].resources.gpu_memory > 0


def test_the_target_of_a_recipe_applies_to_the_engine_only(lowered: Lowered) -> None:
    found = labels(lowered("tensorrt-llm", "fp8", DATA, BESIDE, "1.2", "target={device: cuda, sm: 89}"))
    assert found["build_llm"].target["sm"] == 89
    assert found["quantize"].target["device"] == "cpu"


def test_versions_of_both_environments_are_in_the_keys_of_what_runs_there(lowered: Lowered) -> None:
    found = labels(lowered())
    assert set(found["quantize"].toolchain) == {"torch", "transformers", "nvidia-modelopt"}
    assert found["build_llm"].toolchain == {"tensorrt-llm": "1.2", "tensorrt": "10.13.3"}


def test_another_version_of_tensorrt_llm_reads_the_same_checkpoint(lowered: Lowered) -> None:
    keys = {labels(lowered(version=version))["quantize"].definition_key for version in SUPPORTED}
    assert len(keys) == 1


def test_without_data_the_versions_own_quantizer_stays(lowered: Lowered) -> None:
    found = labels(lowered(calibration=None))
    assert found["quantize"].step == "toolchain"
    assert "quantize.py" in " ".join(found["quantize"].params["commands"][0]["argv"])
    assert found["build_llm"].inputs == {"checkpoint": found["quantize"].definition_key}


def test_a_data_set_of_the_hub_is_fetched_for_it(lowered: Lowered, hub: Hub) -> None:
    assert hub.url
    request = {"data": f"hf://{REPO}", "samples": 3}
    found = labels(lowered("tensorrt-llm", "int4_awq", request))
    assert found["quantize"].inputs["data"] == found["calibration_data"].definition_key
    assert found["quantize"] == labels(lowered("torch", "int4_awq", request))["quantize"]


def test_a_changed_image_repeats_calibration_and_keeps_the_visual_engine(lowered: Lowered) -> None:
    first = labels(lowered())
    Path(first["quantize"].locators["image0"]).write_bytes(png(99))
    other = labels(lowered())
    changed = {name for name in first if first[name].definition_key != other[name].definition_key}
    assert changed == {"quantize", "build_llm", "assemble"}


def test_a_second_source_is_fetched_for_calibration_only() -> None:
    """VILA's visual tower is a separate model: calibration runs both, commands read only the first source."""
    requested = json.dumps({"algorithm": "int4_awq", "calibration": {"data": str(PICTURES), "samples": 2}})
    (variant,) = load_variants(
        "vila-7b-fp16",
        "engine.backend=tensorrt-llm",
        f"engine.quantization={requested}",
        "engine.tensorrt_llm.fused_mlp=auto",
    )
    graph = lower_toolchain(variant, PlanContext({**BESIDE, "sm": 90}, str, offline=True), HERE)
    found = labels(graph)
    sources = {"model": found["download"], "vision": found["download-vision"]}
    assert found["quantize"].inputs == {name: action.definition_key for name, action in sources.items()}
    assert "checkpoint" not in found["build_visual"].inputs
    assert found["build_visual"].inputs["model"] == found["download"].definition_key
    assert found["download-vision"].definition_key not in found["assemble"].inputs.values()


def test_calibrating_weights_that_converters_permute_is_refused() -> None:
    (variant,) = load_variants("llava-int4")
    engine = variant.recipe.engine
    quantization = engine.quantization.model_copy(update={"calibration": Calibration(data=str(PICTURES))})
    changed = variant.recipe.model_copy(
        update={"engine": engine.model_copy(update={"quantization": quantization})}
    )
    variant = replace(variant, recipe=changed)
    context = PlanContext({"sm": 90}, str, offline=True)
    refused(ToolchainError, "MM606", lower_toolchain, variant, context, HERE)


@pytest.mark.parametrize(
    ("module", "name", "missing", "code", "hint"),
    [
        (local_environment, "PACKAGES", ("a-package-that-nobody-wrote",), "MM230", TORCH_HINT),
        (lower_calibration, "OPTIMIZER", "a-package-that-nobody-wrote", "MM462", QUANTIZE_HINT),
    ],
)
def test_missing_calibration_packages_are_reported_while_planning(
    lowered: Lowered,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    missing: Any,
    code: str,
    hint: str,
) -> None:
    monkeypatch.setattr(module, name, missing)
    kind = MissingPackageError if code == "MM230" else CalibrationError
    assert refused(kind, code, lowered).hint == hint
