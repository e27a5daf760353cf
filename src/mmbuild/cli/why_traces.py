"""Compares a recipe with its engine directories, for ``mmbuild why``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.pins import NO_PINS, Pins
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.graph.keys import action_key
from mmbuild.core.graph.plan import Build, PlannedAction
from mmbuild.core.store.layout import Store, open_store
from mmbuild.core.store.roots import read_root
from mmbuild.inspect.diff.blame import Edit, edits
from mmbuild.inspect.diff.trace import Trace, trace
from mmbuild.schema.resolved import ResolvedRecipe


@dataclass(frozen=True, slots=True)
class WhyOptions:
    """The recipe and how to plan it; same options as ``mmbuild plan``."""

    recipe: Path
    overrides: tuple[str, ...] = ()
    offline: bool = False
    allow_outside: bool | None = None
    store: Path | None = None
    build_dir: Path = Path("build")
    locked: bool = False


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


@dataclass(frozen=True, slots=True)
class _Lowering:
    """Lowers a variant with a given target and pins."""

    store: Store
    offline: bool
    target: Mapping[str, Any] | None = None
    pins: Pins = NO_PINS

    def __call__(self, variant: ResolvedRecipe) -> RecipeGraph:
        from mmbuild.pipeline.planning import lower_all

        return lower_all((variant,), self.store, target=self.target, offline=self.offline, pins=self.pins)[0]


def trace_variants(options: WhyOptions) -> list[VariantTrace]:
    """Plan the recipe and trace each of its variants.

    Raises:
        RecipeError: The recipe has errors.
        MmbuildError: Planning failed.
    """
    from mmbuild.api import plan_graphs

    store = open_store(options.store)
    variants, graphs, lower = _load(options, store)
    plan = plan_graphs(graphs, store, options.build_dir)
    planned = {item.action.definition_key: item for item in plan.actions}
    traces = []
    for variant, build in zip(variants, plan.builds, strict=True):
        traced = trace(build, planned, read_root(store, build.directory), store)
        traces.append(
            VariantTrace(build, planned, traced, edits(variant, traced, lower, offline=options.offline))
        )
    return traces


def _load(
    options: WhyOptions, store: Store
) -> tuple[Sequence[ResolvedRecipe], Sequence[RecipeGraph], _Lowering]:
    from mmbuild.base.diagnostics import RecipeError
    from mmbuild.pipeline.load import load_recipes
    from mmbuild.pipeline.planning import lower_all

    if options.locked:
        return _load_locked(options, store)
    loaded = load_recipes(
        [options.recipe],
        overrides=options.overrides,
        offline=options.offline,
        allow_outside=options.allow_outside,
    )
    if any(item.severity == "error" for item in loaded.diagnostics):
        raise RecipeError(loaded.diagnostics)
    graphs = lower_all(loaded.variants, store, offline=options.offline)
    return loaded.variants, graphs, _Lowering(store, options.offline)


def _load_locked(
    options: WhyOptions, store: Store
) -> tuple[Sequence[ResolvedRecipe], Sequence[RecipeGraph], _Lowering]:
    from mmbuild.team.lockfile.apply import plan_locked
    from mmbuild.team.lockfile.make import LockOptions

    locked = plan_locked(options.recipe, store, LockOptions(options.offline, options.allow_outside))
    lower = _Lowering(store, options.offline, locked.lock.target, locked.lock.pins)
    return locked.variants, locked.graphs, lower
