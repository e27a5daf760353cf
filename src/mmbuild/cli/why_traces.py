"""Compares a recipe with its engine directories, for ``mmbuild why``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.graph.keys import action_key
from mmbuild.core.graph.plan import Build, PlannedAction
from mmbuild.core.store.layout import Store, open_store
from mmbuild.core.store.named_builds import read_root
from mmbuild.inspect.diff.blame import Edit, edits
from mmbuild.inspect.diff.trace import Trace, trace
from mmbuild.pipeline.options import PlanOptions
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.team.lockfile.model import Lockfile


@dataclass(frozen=True, slots=True)
class VariantTrace:
    """What changed in one variant.

    Attributes:
        build: Its build in the plan.
        planned: The actions of the plan by definition key.
        trace: The changes.
        edits: The edited lines that cause them.
    """

    build: Build
    planned: Mapping[str, PlannedAction]
    trace: Trace
    edits: Sequence[Edit]

    def matches(self, step: str) -> bool:
        """Whether it has ``step``, which may be prefixed with the variant's name."""
        return self.label(step) in self.build.actions

    def label(self, step: str) -> str:
        return step if "/" in step else f"{self.build.recipe}/{step}"

    def keys(self, label: str) -> tuple[Action, Mapping[str, str], str | None]:
        """An action, the known artifact digests of its inputs, and its action key if all of them are known."""
        action = self.planned[self.build.actions[label]].action
        records = {name: self.planned[key].record for name, key in action.inputs.items()}
        inputs = {name: record.digest for name, record in records.items() if record is not None}
        return action, inputs, action_key(action, inputs) if len(inputs) == len(records) else None


def trace_variants(
    request: PlanOptions, store: Path | None = None, build_dir: Path = Path("build")
) -> list[VariantTrace]:
    """Plan one recipe and trace each of its variants.

    Raises:
        RecipeError: The recipe has errors.
        MmbuildError: Planning failed.
    """
    from mmbuild.api import plan_graphs
    from mmbuild.team.lockfile.apply import lower_locked

    opened = open_store(store)
    variants, graphs, lock = _load(request, opened)
    plan = plan_graphs(graphs, opened, build_dir)
    planned = {item.action.definition_key: item for item in plan.actions}

    def lower(variant: ResolvedRecipe) -> RecipeGraph:
        return lower_locked(variant, opened, lock, offline=request.offline)

    traces = []
    for variant, build in zip(variants, plan.builds, strict=True):
        traced = trace(build, planned, read_root(opened, build.directory), opened)
        changed = edits(variant, traced, lower, offline=request.offline)
        traces.append(VariantTrace(build, planned, traced, changed))
    return traces


def _load(
    request: PlanOptions, store: Store
) -> tuple[Sequence[ResolvedRecipe], Sequence[RecipeGraph], Lockfile | None]:
    from mmbuild.pipeline.load import load_valid
    from mmbuild.pipeline.planning import lower_all
    from mmbuild.team.lockfile.apply import plan_locked

    if request.locked:
        locked = plan_locked(request.paths[0], store, request, builds=False)
        return locked.variants, locked.graphs, locked.lock
    variants = load_valid(request).variants
    return variants, lower_all(variants, store, offline=request.offline), None
