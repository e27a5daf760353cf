"""Recipe files and directories of them to planned variants, each with the file it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmbuild.base.diagnostics import Diagnostic, RecipeError
from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import Store
from mmbuild.pipeline.load import load_recipes
from mmbuild.schema.resolved import ResolvedRecipe


class CiError(MmbuildError):
    """Recipes, revisions or jobs that cannot be told to a CI service."""


_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class VariantOptions:
    """How recipes are planned; the same words as in :class:`mmbuild.pipeline.planning.PlanOptions`.

    Attributes:
        overrides: ``dotted.key=value`` for every recipe.
        offline: Ask no hub.
        allow_outside: Accept paths outside the project's root; None asks the environment.
        locked: Plan what the recipes' locks say.
    """

    overrides: tuple[str, ...] = ()
    offline: bool = False
    allow_outside: bool | None = None
    locked: bool = False


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of a recipe, planned.

    Attributes:
        name: Names its engine directory.
        file: The recipe file, as it was given.
        graph: Its actions.
        recipe: What it was planned from.
    """

    name: str
    file: Path
    graph: RecipeGraph
    recipe: ResolvedRecipe


@dataclass(frozen=True, slots=True)
class Variants:
    """What came of some recipe files.

    Attributes:
        planned: Variants in the order of their files.
        files: Every file read.
        warnings: Findings that are no errors.
        faults: Why a file, or a variant, could not be planned, by its path or name; only where that is no error.
    """

    planned: tuple[Variant, ...]
    files: tuple[Path, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    def by_name(self) -> dict[str, Variant]:
        return {variant.name: variant for variant in self.planned}


def recipe_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Files as they are, and of a directory the YAML files right in it: those below are mostly what recipes extend.

    Raises:
        CiError: MM810, a directory without recipes.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            files[path] = None
            continue
        found = sorted(item for item in path.iterdir() if item.suffix in _SUFFIXES and item.is_file())
        if not found:
            raise CiError(
                f"`{path}` holds no recipe",
                code="MM810",
                hint="Name recipe files, or directories with .yaml files right in them",
            )
        files.update(dict.fromkeys(found))
    return tuple(files)


def plan_variants(files: Sequence[Path], store: Store, options: VariantOptions) -> Variants:
    """Load, validate and lower all variants of ``files``.

    Raises:
        RecipeError: Recipes have errors; all of them at once.
        MmbuildError: A source cannot be identified; with ``options.locked``, MM800 to MM804.
    """
    from mmbuild.pipeline.planning import lower_all

    if options.locked:
        return _plan_locked(files, store, options)
    loaded = load_recipes(
        files, overrides=options.overrides, offline=options.offline, allow_outside=options.allow_outside
    )
    if any(item.severity == "error" for item in loaded.diagnostics):
        raise RecipeError(loaded.diagnostics)
    graphs = lower_all(loaded.variants, store, offline=options.offline)
    return Variants(_variants(loaded.variants, graphs), loaded.files, loaded.diagnostics)


def plan_valid_variants(files: Sequence[Path], store: Store, options: VariantOptions) -> Variants:
    """As :func:`plan_variants`, without those that have errors: an earlier state of recipes need not have been right.

    A recipe without a lock is planned without one, also with ``options.locked``.
    """
    planned: list[Variant] = []
    read: list[Path] = []
    faults: dict[str, str] = {}
    for file in files:
        locked = options.locked and file.with_suffix(".lock").exists()
        one = VariantOptions(options.overrides, options.offline, options.allow_outside, locked)
        try:
            found = plan_variants([file], store, one)
        except MmbuildError as error:
            faults[str(file)] = error.message
            continue
        planned += found.planned
        read += found.files
    return Variants(tuple(planned), tuple(dict.fromkeys(read)), faults=faults)


def _plan_locked(files: Sequence[Path], store: Store, options: VariantOptions) -> Variants:
    """Each file under its own lock, whose word is taken for versions, commits and target: planning builds nothing."""
    from mmbuild.team.lockfile import make as locks
    from mmbuild.team.lockfile.apply import refuse_overrides
    from mmbuild.team.lockfile.compare import differences, refuse
    from mmbuild.team.lockfile.model import lock_path, read_lock

    refuse_overrides(options.overrides)
    variants: list[Variant] = []
    read: dict[Path, None] = {}
    warnings: dict[Diagnostic, None] = {}
    for file in files:
        lock = read_lock(lock_path(file))
        made = locks.make(file, store, locks.LockOptions(options.offline, options.allow_outside), known=lock)
        apart = differences(lock, made.lock)
        if apart:
            raise refuse(lock_path(file), apart, hint="Run `mmbuild lock` and look at what changed in it")
        variants += _variants(made.variants, made.graphs)
        read.update(dict.fromkeys([file.absolute()]))
        warnings.update(dict.fromkeys(made.findings))
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
                hint="Give one of them another name, or name the file once",
            )
