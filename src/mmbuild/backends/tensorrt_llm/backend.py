"""Backend tensorrt-llm: engines built by the commands of a TensorRT-LLM version, in an environment that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.backends.base import PlanContext, Requirements, Runner
from mmbuild.backends.lowering.requirements import fitting_extras, most_ranks
from mmbuild.base import pins
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
    """What is built with one TensorRT-LLM version: families, and ranks of the largest engine."""

    families: tuple[str, ...] = ()
    ranks: int = 1


class TensorRtLlmBackend:
    """See :class:`mmbuild.backends.base.Backend`."""

    name = "tensorrt-llm"
    steps: Mapping[str, StepSpec] = {}

    def check(self, variant: ResolvedRecipe) -> Iterable[Violation]:
        """What the chosen version of TensorRT-LLM cannot build, and what it builds with a warning."""
        version = _version(variant)
        if version not in SUPPORTED:
            return ()  # a rule of the schema reports that
        # Templates take 20 ms to import.
        from mmbuild.backends.tensorrt_llm.toolchains.capabilities import cautions, violations
        from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain

        toolchain = load_toolchain(version)
        return (*violations(variant, toolchain), *cautions(variant, toolchain))

    def cacheable(self, variant: ResolvedRecipe) -> bool:
        """Only where no TensorRT is involved, whose version may change under a plan."""
        return variant.recipe.visual.backend is not VisualBackend.TENSORRT

    def lower(self, variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
        """See :func:`mmbuild.backends.tensorrt_llm.lower.lower_toolchain`."""
        from mmbuild.backends.tensorrt_llm.lower import lower_toolchain

        return lower_toolchain(
            variant,
            sm=context.target["sm"],
            environment=context.once(configured_environment)(_version(variant)),
            digest=context.digest,
            offline=context.offline,
            own=context.target,
        )

    def environment(self, variant: ResolvedRecipe) -> str:
        """``tensorrt-llm VERSION``."""
        return environment_name(_version(variant))

    def environment_packages(self, actions: Sequence[Action]) -> Mapping[str, str]:
        """Nothing: keys hold all versions."""
        return {}

    def environment_facts(self, variant: ResolvedRecipe) -> Mapping[str, str]:
        """The tag of the examples, and the image of a configured container."""
        from mmbuild.backends.tensorrt_llm.images import image_of
        from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain

        version = _version(variant)
        return {"tag": load_toolchain(version).source.revision, **image_of(version)}

    def require_ready(self, plan: Plan) -> None:
        """See :func:`mmbuild.backends.tensorrt_llm.readiness.require_toolchains`."""
        from mmbuild.backends.tensorrt_llm.readiness import require_toolchains

        require_toolchains(plan)

    def requirements(self, variants: Sequence[ResolvedRecipe], device: str) -> Requirements:
        """One GPU for each rank, and what mmbuild itself calibrates with."""
        return Requirements(
            gpus_if_any=most_ranks(variants) if variants else 0, extras=fitting_extras(variants)
        )

    def host_checks(
        self, variants: Sequence[ResolvedRecipe] | None, sm: int | None, config: UserConfig
    ) -> Iterable[Group]:
        """A group for each version."""
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


def environment_name(version: str) -> str:
    """What locks call the environment of a TensorRT-LLM version."""
    return f"tensorrt-llm {version}"


def configured_environment(version: str) -> Environment | None:
    """What the user configured for a toolchain, with the versions that a lock in force states.

    An environment that does not answer counts as empty: apply reports why.
    """
    from mmbuild.backends.environments.probe import installed
    from mmbuild.backends.tensorrt_llm.lower import Environment
    from mmbuild.backends.tensorrt_llm.toolchains.load import pinned_distributions
    from mmbuild.base.errors import MmbuildError

    configured = load().toolchains.get(version)
    locked = pins.packages(environment_name(version))
    if locked:
        return Environment(configured.model_dump_json() if configured else None, dict(locked))
    if configured is None:
        return None
    try:
        versions = dict(installed(configured, pinned_distributions()))
    except MmbuildError:
        versions = {}
    # A name that the toolchain itself does not have: `tensorrt-llm` is its version.
    return Environment(
        configured.model_dump_json(), {name.replace("-", "_"): text for name, text in versions.items()}
    )


def version_uses(variants: Iterable[ResolvedRecipe]) -> Mapping[str, VersionUse]:
    """What ``variants`` build, by version."""
    users: dict[str, list[ResolvedRecipe]] = {}
    for item in variants:
        users.setdefault(_version(item), []).append(item)
    return {
        version: VersionUse(
            tuple(sorted({str(item.recipe.model.family) for item in using})), most_ranks(using)
        )
        for version, using in users.items()
    }


def _version(variant: ResolvedRecipe) -> str:
    return variant.recipe.engine.tensorrt_llm.toolchain


BACKEND = TensorRtLlmBackend()
