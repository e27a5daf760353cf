"""Plans the variants of recipe files and directories, each with its source file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import Store
from mmbuild.pipeline.load import load_valid
from mmbuild.pipeline.options import PlanOptions
from mmbuild.schema.resolved import ResolvedRecipe


class CiError(MmbuildError):
    """Recipes, revisions or jobs that cannot be used in CI."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A planned variant of a recipe.

    Attributes:
        name: Name of the variant and its engine directory.
        file: The recipe file, as given.
        graph: Its actions.
        recipe: The resolved recipe.
    """

    name: str
    file: Path
    graph: RecipeGraph
    recipe: ResolvedRecipe


@dataclass(frozen=True, slots=True)
class Variants:
    """Result of planning recipe files.

    Attributes:
        planned: Variants in the order of their files.
        files: Every file read.
        warnings: Findings that are not errors.
        faults: Why a file or variant could not be planned, by path or name; only from :func:`plan_valid_variants`.
    """

    planned: tuple[Variant, ...]
    files: tuple[Path, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    def by_name(self) -> dict[str, Variant]:
        return {variant.name: variant for variant in self.planned}


def plan_variants(request: PlanOptions, store: Store) -> Variants:
    """Load, validate and lower all variants of the request's files.

    Raises:
        RecipeError: Recipes have errors; all of them at once.
        MmbuildError: A source cannot be identified; with ``request.locked``, MM800 to MM804.
    """
    from mmbuild.pipeline.planning import lower_all

    if request.locked:
        return _plan_locked(request, store)
    loaded = load_valid(request)
    graphs = lower_all(loaded.variants, store, offline=request.offline)
    return Variants(_variants(loaded.variants, graphs), loaded.files, loaded.diagnostics)


def plan_valid_variants(request: PlanOptions, store: Store) -> Variants:
    """As :func:`plan_variants`, but skip recipes with errors, which an earlier state may have.

    A recipe without a lock is planned without one, even with ``request.locked``.
    """
    planned: list[Variant] = []
    read: list[Path] = []
    faults: dict[str, str] = {}
    for file in request.paths:
        locked = request.locked and file.with_suffix(".lock").exists()
        try:
            variants = plan_variants(replace(request, paths=(file,), locked=locked), store)
        except MmbuildError as error:
            faults[str(file)] = error.message
            continue
        planned += variants.planned
        read += variants.files
    return Variants(tuple(planned), tuple(dict.fromkeys(read)), faults=faults)


def _plan_locked(request: PlanOptions, store: Store) -> Variants:
    """Plan each file with its own lock, without checking locked versions and target: nothing is built here."""
    from mmbuild.team.lockfile import make as locks
    from mmbuild.team.lockfile.apply import refuse_overrides
    from mmbuild.team.lockfile.compare import differences, refuse
    from mmbuild.team.lockfile.model import lock_path, read_lock

    refuse_overrides(request.overrides)
    variants: list[Variant] = []
    read: dict[Path, None] = {}
    warnings: dict[Diagnostic, None] = {}
    for file in request.paths:
        lock = read_lock(lock_path(file))
        current = locks.make(file, store, request, known=lock)
        changed = differences(lock, current.lock)
        if changed:
            raise refuse(lock_path(file), changed, hint="run `mmbuild lock` and check what changed in it")
        variants += _variants(current.variants, current.graphs)
        read.update(dict.fromkeys([file.absolute()]))
        warnings.update(dict.fromkeys(current.findings))
    _refuse_same_names(variants)
    return Variants(tuple(variants), tuple(read), tuple(warnings))


def _variants(recipes: Sequence[ResolvedRecipe], graphs: Sequence[RecipeGraph]) -> tuple[Variant, ...]:
    return tuple(
        Variant(recipe.name, recipe.path, graph, recipe)
        for recipe, graph in zip(recipes, graphs, strict=True)
    )


def _refuse_same_names(variants: Sequence[Variant]) -> None:
    seen: dict[str, Variant] = {}
    for variant in variants:
        first = seen.setdefault(variant.name, variant)
        if first is not variant:
            raise CiError(
                f"`{variant.name}` is built by {first.file} and by {variant.file}",
                code="MM126",
                hint="give one of them another name, or name the file only once",
            )
