"""Backend hf: Hugging Face checkpoints in the compressed-tensors format, written in mmbuild's own environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.backends.base import PlanContext, Requirements, Runner
from mmbuild.base.checks import Check, Group
from mmbuild.base.pins import EMBEDDED
from mmbuild.schema.model import Algorithm

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.base.diagnostics import Violation
    from mmbuild.config.model import UserConfig
    from mmbuild.core.graph.action import Action, RecipeGraph
    from mmbuild.core.graph.plan import Plan
    from mmbuild.core.steps.registry import StepSpec
    from mmbuild.schema.resolved import ResolvedRecipe


class HfBackend:
    """See :class:`mmbuild.backends.base.Backend`."""

    name = "hf"
    steps: Mapping[str, StepSpec] = {}

    def check(self, variant: ResolvedRecipe) -> Iterable[Violation]:
        """See :func:`mmbuild.backends.hf.check.violations`."""
        from mmbuild.backends.hf.check import violations

        return violations(variant)

    def cacheable(self, variant: ResolvedRecipe) -> bool:
        """Always."""
        return True

    def lower(self, variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
        """See :func:`mmbuild.backends.hf.lower.lower`."""
        from mmbuild.backends.hf.lower import lower

        return lower(variant, context)

    def environment(self, variant: ResolvedRecipe) -> str:
        """mmbuild's own."""
        return EMBEDDED

    def environment_packages(self, actions: Sequence[Action]) -> Mapping[str, str]:
        """The compressed-tensors that reads the checkpoint back, which only ``measure`` depends on."""
        for action in actions:
            if "compressed-tensors" in action.toolchain:
                return {"compressed-tensors": action.toolchain["compressed-tensors"]}
        return {}

    def environment_facts(self, variant: ResolvedRecipe) -> Mapping[str, str]:
        """Nothing: packages identify it."""
        return {}

    def require_ready(self, plan: Plan) -> None:
        """Nothing: lowering has refused missing packages."""

    def requirements(self, variants: Sequence[ResolvedRecipe], device: str) -> Requirements:
        """torch, and compressed-tensors where a quantized checkpoint is read back."""
        read_back = any(
            item.recipe.verify is not None and item.recipe.engine.quantization.algorithm is not Algorithm.NONE
            for item in variants
        )
        return Requirements(extras=("torch", "hf") if read_back else ("torch",))

    def host_checks(
        self, variants: Sequence[ResolvedRecipe] | None, sm: int | None, config: UserConfig
    ) -> Iterable[Group]:
        """Nothing: no environment but mmbuild's own is used."""
        return ()

    def open(self, build: Path, description: Description, report: Callable[[str], None]) -> Runner:
        """See :class:`mmbuild.backends.hf.runner.HfRunner`."""
        from mmbuild.backends.hf.runner import HfRunner

        return HfRunner(build, description)

    def compatibility(self, build: Path, description: Description) -> Iterable[Check]:
        """See :func:`mmbuild.backends.hf.compatibility.compatibility`."""
        from mmbuild.backends.hf.compatibility import compatibility

        return compatibility(description)

    def script(self, variants: Sequence[ResolvedRecipe]) -> str | None:
        """See :func:`mmbuild.backends.hf.commands.script`."""
        from mmbuild.backends.hf.commands import script

        return script(variants)


BACKEND = HfBackend()
