"""Variants to render commands from: the repository's recipes, and the same with other precisions and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mmbuild.backends.tensorrt_llm.toolchains.capabilities import refusals
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.pipeline.load import load_recipes
from mmbuild.schema.resolved import ResolvedRecipe

RECIPES = Path(__file__).parents[3] / "recipes"
ALGORITHMS = ("none", "int8", "int4", "int4_awq", "smoothquant", "fp8")
# One model for each family and form.
MODELS = ("flan-t5-xl", "opt-2.7b", "llava-fp16", "vila-7b-fp16", "vila1.5-3b-fp16", "nougat-base")


@cache
def recipe_files() -> tuple[Path, ...]:
    """Every recipe of the repository that is not a base recipe."""
    return (*sorted(RECIPES.glob("*.yaml")), *sorted((RECIPES / "demo").glob("*.yaml")))


@cache
def load(path: str, *overrides: str) -> tuple[ResolvedRecipe, ...]:
    """The variants of ``recipes/<path>.yaml`` with ``key=value`` overrides; empty if it does not validate.

    The backend is torch where nothing else is said, so that no one version judges what others build.
    """
    given = ("engine.backend=torch", *overrides)
    return load_recipes([RECIPES / f"{path}.yaml"], overrides=given, offline=True).variants


@cache
def everything() -> tuple[ResolvedRecipe, ...]:
    """Every variant of every recipe, and every model with each precision, 1 to 4 ranks, several lengths and beams."""
    found = list(load_recipes(recipe_files(), overrides=("engine.backend=torch",), offline=True).variants)
    for model in MODELS:
        for algorithm in ALGORITHMS:
            for ranks in (1, 2, 4):
                found += load(model, *_shape(model, algorithm, ranks))
        found += load(model, "engine.dtype=float32", "engine.quantization=none", *_unfused(model, "int8"))
        found += load(model, "engine.dtype=bfloat16", "engine.quantization=none", "engine.max_beam_width=4")
    return tuple(found)


def _shape(model: str, algorithm: str, ranks: int) -> Sequence[str]:
    batch = {1: 1, 2: 3, 4: 16}[ranks]
    return (
        f"engine.quantization={algorithm}",
        f"engine.tensor_parallel={ranks}",
        f"engine.max_batch_size={batch}",
        "engine.max_multimodal_len=null",
        *(("engine.max_input_len=500",) if model == "flan-t5-xl" and ranks == 2 else ()),
        *_unfused(model, algorithm),
    )


def _unfused(model: str, algorithm: str) -> Sequence[str]:
    # These recipes state `fused_mlp: true`, which quantization refuses.
    stated = model.endswith("fp16") and algorithm != "none"
    return ("engine.tensorrt_llm.fused_mlp=auto",) if stated else ()


@cache
def rendered(version: str) -> tuple[tuple[ResolvedRecipe, tuple[Command, ...]], ...]:
    """Every variant that ``version`` builds, with its commands."""
    toolchain = load_toolchain(version)
    built = (variant for variant in everything() if not refusals(variant, toolchain))
    return tuple((variant, commands(variant, toolchain)) for variant in built)
