"""Backend torch: engines compiled by torch, built and run in mmbuild's own environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.backends.base import PlanContext, Requirements, Runner
from mmbuild.backends.lowering.requirements import fitting_extras, most_ranks
from mmbuild.base.checks import Check, Group
from mmbuild.base.pins import EMBEDDED
from mmbuild.schema.model import Device, VisualBackend

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.base.diagnostics import Violation
    from mmbuild.config.model import UserConfig
    from mmbuild.core.graph.action import Action, RecipeGraph
    from mmbuild.core.graph.plan import Plan
    from mmbuild.core.steps.registry import StepSpec
    from mmbuild.schema.resolved import ResolvedRecipe


class TorchBackend:
    """See :class:`mmbuild.backends.base.Backend`."""

    name = "torch"
    steps: Mapping[str, StepSpec] = {}

    def check(self, variant: ResolvedRecipe) -> Iterable[Violation]:
        """Nothing: the rules of the schema cover this backend."""
        return ()

    def cacheable(self, variant: ResolvedRecipe) -> bool:
        """Unless a TensorRT of another environment builds the visual engine."""
        return not _tensorrt_visual(variant)

    def lower(self, variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
        """See :func:`mmbuild.backends.torch.lower.lower`."""
        from mmbuild.backends.torch.lower import lower

        return lower(variant, context)

    def environment(self, variant: ResolvedRecipe) -> str:
        """mmbuild's own."""
        return EMBEDDED

    def environment_packages(self, actions: Sequence[Action]) -> Mapping[str, str]:
        """The TensorRT of the visual engine, which is a parameter of its action."""
        for action in actions:
            if action.step == "build_visual" and action.params.get("tensorrt"):
                return {"tensorrt": str(action.params["tensorrt"]["version"])}
        return {}

    def environment_facts(self, variant: ResolvedRecipe) -> Mapping[str, str]:
        """Nothing: packages identify it."""
        return {}

    def require_ready(self, plan: Plan) -> None:
        """Nothing: lowering has refused missing packages."""

    def requirements(self, variants: Sequence[ResolvedRecipe], device: str) -> Requirements:
        """torch, a compiler, and MPI and one GPU for each rank where an engine has several."""
        on_gpus = [item for item in variants if _on_gpu(item, device)]
        return Requirements(
            gpus=most_ranks(on_gpus) if on_gpus else 0,
            extras=("torch", *fitting_extras(variants)),
            ranks=most_ranks(variants),
            compiler=True,
            tensorrt=any(map(_tensorrt_visual, variants)),
        )

    def host_checks(
        self, variants: Sequence[ResolvedRecipe] | None, sm: int | None, config: UserConfig
    ) -> Iterable[Group]:
        """Nothing: no environment but mmbuild's own is used."""
        return ()

    def open(self, build: Path, description: Description, report: Callable[[str], None]) -> Runner:
        """See :class:`mmbuild.backends.torch.runner.TorchRunner`."""
        from mmbuild.backends.torch.runner import TorchRunner

        return TorchRunner(build, description)

    def compatibility(self, build: Path, description: Description) -> Iterable[Check]:
        """See :func:`mmbuild.backends.torch.compatibility.compatibility`."""
        from mmbuild.backends.torch.compatibility import compatibility, probe_host, tensorrt_visual

        visual = tensorrt_visual(build)
        return compatibility(description, probe_host(tensorrt=visual is not None), visual)

    def script(self, variants: Sequence[ResolvedRecipe]) -> str | None:
        """None: nothing runs these engines without mmbuild."""
        return None


def _tensorrt_visual(variant: ResolvedRecipe) -> bool:
    return variant.recipe.visual.backend is VisualBackend.TENSORRT


def _on_gpu(variant: ResolvedRecipe, device: str) -> bool:
    target = variant.recipe.target
    return (target.device if target is not None and target.device else Device(device)) is Device.CUDA


BACKEND = TorchBackend()
