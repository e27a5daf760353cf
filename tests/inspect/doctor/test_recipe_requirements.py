"""The requirements of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.base import Requirements
from mmbuild.backends.tensorrt_llm.backend import VersionUse, version_uses
from mmbuild.config.model import UserConfig
from mmbuild.core.graph.action import Action, Resources
from mmbuild.inspect.doctor import compiler
from mmbuild.inspect.doctor.recipe_requirements import needs
from mmbuild.inspect.doctor.report import report
from mmbuild.pipeline.load import load_recipes
from mmbuild.schema.resolved import ResolvedRecipe

RECIPES = Path(__file__).parents[3] / "recipes"


def variants(name: str, *overrides: str) -> tuple[ResolvedRecipe, ...]:
    loaded = load_recipes([RECIPES / f"{name}.yaml"], overrides=overrides, offline=True)
    assert not [item for item in loaded.diagnostics if item.severity == "error"]
    return loaded.variants


def action(memory: int, disk: int) -> Action:
    return Action("x", "convert", "1", {}, "key", resources=Resources(memory=memory, disk=disk))


def test_resources_are_the_largest_memory_and_all_disk() -> None:
    found = needs(variants("demo/llava-int4"), [action(5, 1), action(7, 2), action(6, 4)], "cpu")
    assert (found.memory, found.disk) == (7, 7)
    assert needs(variants("demo/llava-int4"), [], "cpu").memory == 0


@pytest.mark.parametrize(
    ("overrides", "device", "gpus", "sms"),
    [
        ((), "cpu", 0, frozenset()),
        ((), "cuda", 1, frozenset()),
        (("target.device=cpu",), "cuda", 0, frozenset()),
        (("target={device: cuda, sm: 90}",), "cpu", 1, frozenset({90})),
        (("target={device: cuda, sm: 90}", "engine.tensor_parallel=2"), "cpu", 2, frozenset({90})),
    ],
)
def test_gpus_of_the_embedded_engine(
    overrides: tuple[str, ...], device: str, gpus: int, sms: frozenset[int]
) -> None:
    found = needs(variants("demo/llava-int4", *overrides), [], device)
    assert found.software.extras == ("torch",)
    assert found.software.compiler
    assert (found.software.gpus, found.sms) == (gpus, sms)
    assert found.software.ranks == max(gpus, 1)


def test_toolchains_with_their_families_and_largest_ranks() -> None:
    trtllm: Any = ("engine.backend=tensorrt-llm", "engine.tensorrt_llm.toolchain='1.2'")
    first = variants("llava-int4", *trtllm, "engine.tensor_parallel=2")
    found = needs((*first, *variants("nougat-base", *trtllm)), [], "cpu")
    assert version_uses(found.variants) == {"1.2": VersionUse(("llava", "nougat"), 2)}
    assert found.software == Requirements(gpus_if_any=2)


def test_calibration_packages_are_required_for_every_backend() -> None:
    trtllm = ("engine.backend=tensorrt-llm", "engine.dtype=float16")
    of = {
        name: needs(variants(name, *overrides), [], "cpu")
        for name, overrides in {"demo/llava-awq": trtllm, "demo/llava-int4": (), "llava-int4": trtllm}.items()
    }
    assert {name: (found.software.compiler, found.software.extras) for name, found in of.items()} == {
        "demo/llava-awq": (False, ("torch", "quantize")),
        "demo/llava-int4": (True, ("torch",)),
        "llava-int4": (False, ()),
    }
    data = RECIPES.parent / "examples/calibration/llava.jsonl"
    asked = f"engine.quantization={{algorithm: int4, calibration: {{data: {data}}}}}"
    plain = needs(variants("demo/llava-int4", asked), [], "cpu")
    assert plain.software.extras == ("torch",), "integers are fitted by mmbuild alone"


def test_doctor_checks_model_optimizer_for_a_calibrated_recipe(tmp_path: Path) -> None:
    found = needs(
        variants("demo/llava-awq", "engine.backend=tensorrt-llm", "engine.dtype=float16"), [], "cpu"
    )
    host, toolchain = report(UserConfig(), store=tmp_path, build_dir=tmp_path, needed=found, quick=True)
    assert {"torch", "transformers", "nvidia-modelopt"} <= {check.name for check in host.checks}
    assert compiler.untried().name not in {check.name for check in host.checks}
    assert toolchain.title == "TensorRT-LLM 1.2"
