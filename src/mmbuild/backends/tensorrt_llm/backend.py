"""Backend tensorrt-llm: builds engines with the commands of a TensorRT-LLM version, in an environment that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.backends.base import PlanContext, Requirements, Runner
from mmbuild.backends.lowering.requirements import fitting_extras, most_ranks
from mmbuild.base.checks import Check, Group
from mmbuild.config.load import load
from mmbuild.schema.model import VisualBackend
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.backends.tensorrt_llm.lower import Environment
    from mmbuild.base.diagnostics import Violation
    from mmbuild.config.model import UserConfig
    from mmbuild.core.graph.action import Action, RecipeGraph
    from mmbuild.core.graph.plan import Plan
    from mmbuild.core.steps.registry import StepSpec
    from mmbuild.schema.resolved import ResolvedRecipe


@dataclass(frozen=True, slots=True)
class VersionUse:
    """Use of one TensorRT-LLM version: the families built with it, and the ranks of the largest engine."""

    families: tuple[str, ...] = ()
    ranks: int = 1


class TensorRtLlmBackend:
    """See :class:`mmbuild.backends.base.Backend`."""

    name = "tensorrt-llm"
    steps: Mapping[str, StepSpec] = {}

    def check(self, variant: ResolvedRecipe) -> Iterable[Violation]:
        """Errors and warnings for the recipe's TensorRT-LLM version."""
        version = _version(variant)
        if version not in SUPPORTED:
            return ()  # a rule of the schema reports that
        # Templates take 20 ms to import.
        from mmbuild.backends.tensorrt_llm.toolchains.capabilities import cautions, violations
        from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain

        toolchain = load_toolchain(version)
        return (*violations(variant, toolchain), *cautions(variant, toolchain))

    def cacheable(self, variant: ResolvedRecipe) -> bool:
        """Only without a TensorRT visual engine: the installed TensorRT may change between plans."""
        return variant.recipe.visual.backend is not VisualBackend.TENSORRT

    def lower(self, variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
        """See :func:`mmbuild.backends.tensorrt_llm.lower.lower_toolchain`."""
        from mmbuild.backends.tensorrt_llm.lower import lower_toolchain

        version = _version(variant)
        locked = context.pins.packages(_environment_name(version)) or {}
        environment = context.once(_configured_environment)(version, tuple(locked.items()))
        return lower_toolchain(variant, context, environment)

    def environment(self, variant: ResolvedRecipe) -> str:
        """``tensorrt-llm VERSION``."""
        return _environment_name(_version(variant))

    def environment_packages(self, actions: Sequence[Action]) -> Mapping[str, str]:
        """Empty: keys contain all versions."""
        return {}

    def environment_facts(self, variant: ResolvedRecipe) -> Mapping[str, str]:
        """The tag of the example scripts, and the image of a configured container."""
        from mmbuild.backends.tensorrt_llm.container_images import image_of
        from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain

        version = _version(variant)
        return {"tag": load_toolchain(version).source.revision, **image_of(version)}

    def require_ready(self, plan: Plan) -> None:
        """See :func:`mmbuild.backends.tensorrt_llm.readiness.require_toolchains`."""
        from mmbuild.backends.tensorrt_llm.readiness import require_toolchains

        require_toolchains(plan)

    def requirements(self, variants: Sequence[ResolvedRecipe], device: str) -> Requirements:
        """One GPU per rank, and the extras that mmbuild itself needs for calibration."""
        return Requirements(
            gpus_if_any=most_ranks(variants) if variants else 0, extras=fitting_extras(variants)
        )

    def host_checks(
        self, variants: Sequence[ResolvedRecipe] | None, sm: int | None, config: UserConfig
    ) -> Iterable[Group]:
        """One group per TensorRT-LLM version."""
        from mmbuild.backends.tensorrt_llm.checks.toolchain import container_checks, toolchain_checks

        environments = config.toolchains
        uses = (
            {version: VersionUse() for version in environments}
            if variants is None
            else version_uses(variants)
        )
        for version, use in uses.items():
            environment = environments.get(version)
            checks = toolchain_checks(version, environment, sm=sm, ranks=use.ranks, families=use.families)
            yield Group(f"TensorRT-LLM {version}", (*container_checks(environment), *checks))

    def open(self, build: Path, description: Description, report: Callable[[str], None]) -> Runner:
        """See :class:`mmbuild.backends.tensorrt_llm.runner.engine.UpstreamRunner`."""
        from mmbuild.backends.tensorrt_llm.runner.engine import UpstreamRunner

        return UpstreamRunner(build, description, report)

    def compatibility(self, build: Path, description: Description) -> Iterable[Check]:
        """See :func:`mmbuild.backends.tensorrt_llm.compatibility.compatibility`."""
        from mmbuild.backends.tensorrt_llm.compatibility import compatibility, probe_environment
        from mmbuild.base.gpu import visible_gpus

        return compatibility(description, visible_gpus(), probe_environment(description))

    def script(self, variants: Sequence[ResolvedRecipe]) -> str | None:
        """None: TensorRT-LLM's commands are what `mmbuild script` writes for any recipe."""
        return None


def _environment_name(version: str) -> str:
    """Name of a TensorRT-LLM version's environment in lock files."""
    return f"tensorrt-llm {version}"


def _configured_environment(version: str, locked: tuple[tuple[str, str], ...]) -> Environment | None:
    """The environment configured for a toolchain, with the ``locked`` versions, else with the installed ones.

    An environment that does not respond counts as empty: apply reports why.
    """
    from mmbuild.backends.environments.probe import installed
    from mmbuild.backends.tensorrt_llm.lower import Environment
    from mmbuild.backends.tensorrt_llm.toolchains.load import pinned_distributions
    from mmbuild.base.errors import MmbuildError

    configured = load().toolchains.get(version)
    if locked:
        return Environment(configured.model_dump_json() if configured else None, dict(locked))
    if configured is None:
        return None
    try:
        versions = dict(installed(configured, pinned_distributions()))
    except MmbuildError:
        versions = {}
    # Underscores keep the distribution apart from `tensorrt-llm`, the toolchain's version.
    return Environment(
        configured.model_dump_json(), {name.replace("-", "_"): text for name, text in versions.items()}
    )


def version_uses(variants: Iterable[ResolvedRecipe]) -> Mapping[str, VersionUse]:
    """Use of each TensorRT-LLM version by ``variants``."""
    by_version: dict[str, list[ResolvedRecipe]] = {}
    for item in variants:
        by_version.setdefault(_version(item), []).append(item)
    return {
        version: VersionUse(
            tuple(sorted({str(item.recipe.model.family) for item in items})), most_ranks(items)
        )
        for version, items in by_version.items()
    }


def _version(variant: ResolvedRecipe) -> str:
    return variant.recipe.engine.tensorrt_llm.toolchain


BACKEND = TensorRtLlmBackend()
