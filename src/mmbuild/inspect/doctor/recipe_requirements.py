"""What recipes need of this host: derived from resolved recipes and from what a plan would run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmbuild.schema.calibration_rules import is_fitted_by_mmbuild
from mmbuild.schema.model import CALIBRATED, Backend, Device, VisualBackend

if TYPE_CHECKING:
    from mmbuild.core.graph.action import Action
    from mmbuild.schema.resolved import ResolvedRecipe


@dataclass(frozen=True, slots=True)
class ToolchainNeed:
    """What is to be built by one TensorRT-LLM version: families, and ranks of the largest engine."""

    families: tuple[str, ...]
    ranks: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What a set of recipes needs.

    Attributes:
        recipes: Their names.
        torch: Whether one is built for the embedded engine.
        fitted: Whether mmbuild fits one's quantization on data, for any engine.
        optimizer: Whether Model Optimizer does that.
        torch_ranks: Ranks of the largest of those.
        gpus: GPUs that one of those takes at once; 0 where all are for the CPU.
        sms: Compute capabilities that recipes state.
        toolchains: TensorRT-LLM version to what it is to build.
        tensorrt: Whether one has a TensorRT visual engine beside the embedded engine.
        memory: Bytes of host memory of the largest action that would run.
        disk: Bytes that the actions that would run write.
    """

    recipes: tuple[str, ...]
    torch: bool = False
    fitted: bool = False
    optimizer: bool = False
    torch_ranks: int = 1
    gpus: int = 0
    sms: frozenset[int] = frozenset()
    toolchains: Mapping[str, ToolchainNeed] = field(default_factory=dict)
    tensorrt: bool = False
    memory: int = 0
    disk: int = 0


def needs(variants: Sequence[ResolvedRecipe], todo: Iterable[Action], device: str) -> Needs:
    """What ``variants`` need.

    Args:
        variants: Validated recipes.
        todo: Actions that an apply of them would run.
        device: ``cpu`` or ``cuda``: what this host builds for where a recipe states nothing.
    """
    actions = list(todo)
    embedded = [item for item in variants if item.recipe.engine.backend is Backend.TORCH]
    fitted = [item for item in variants if is_fitted_by_mmbuild(item.recipe.engine)]
    on_gpus = [item for item in embedded if _on_gpu(item, device)]
    stated = [item.recipe.target for item in variants if item.recipe.target is not None]
    return Needs(
        tuple(item.name for item in variants),
        torch=bool(embedded),
        fitted=bool(fitted),
        optimizer=any(item.recipe.engine.quantization.algorithm in CALIBRATED for item in fitted),
        torch_ranks=max((_ranks(item) for item in embedded), default=1),
        gpus=max((_ranks(item) for item in on_gpus), default=0),
        sms=frozenset(target.sm for target in stated if target.sm is not None),
        toolchains=_toolchains(variants),
        tensorrt=any(item.recipe.visual.backend is VisualBackend.TENSORRT for item in embedded),
        memory=max((action.resources.memory for action in actions), default=0),
        disk=sum(action.resources.disk for action in actions),
    )


def _ranks(variant: ResolvedRecipe) -> int:
    return variant.recipe.engine.tensor_parallel


def _on_gpu(variant: ResolvedRecipe, device: str) -> bool:
    target = variant.recipe.target
    return (target.device if target is not None and target.device else Device(device)) is Device.CUDA


def _toolchains(variants: Sequence[ResolvedRecipe]) -> Mapping[str, ToolchainNeed]:
    users: dict[str, list[ResolvedRecipe]] = {}
    for item in variants:
        if item.recipe.engine.backend is Backend.TENSORRT_LLM:
            users.setdefault(item.recipe.engine.tensorrt_llm.toolchain, []).append(item)
    return {
        version: ToolchainNeed(
            tuple(sorted({str(item.recipe.model.family) for item in using})), max(map(_ranks, using))
        )
        for version, using in users.items()
    }
