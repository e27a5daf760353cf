"""Plans recipes according to their locks, and refuses if the current state differs from a lock."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbuild.base import host
from mmbuild.base.diagnostics import render_text
from mmbuild.base.errors import MmbuildError, UsageError
from mmbuild.base.pins import NO_PINS
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import Store
from mmbuild.pipeline.options import PlanOptions
from mmbuild.pipeline.planning import Prepared, calibration_note, derivation_lines, lower_all, running_lines
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.team.lockfile.compare import LockDifference, differences, is_explained, refuse
from mmbuild.team.lockfile.make import LockedPlan, make, this_target
from mmbuild.team.lockfile.model import LockError, Lockfile, lock_path, read_lock

_CANNOT_BUILD = frozenset({"MM230", "MM462", "MM564", "MM565", "MM566", "MM803"})
"""Codes that say that this machine lacks a package or is of another kind: it cannot build, but it can plan."""


def check(
    recipe: Path, store: Store, request: PlanOptions, *, here: bool = False
) -> tuple[Lockfile, tuple[LockDifference, ...]]:
    """Return the lock of ``recipe`` and how the recipe and its files differ from it.

    Versions, commits and target are taken from the lock: it may have been created for another machine. With
    ``here``, versions of this machine that differ count too, as for `plan --locked`.

    Raises:
        LockError: MM800, MM801.
        MmbuildError: The recipe has errors.
    """
    lock = read_lock(lock_path(recipe))
    changed = differences(lock, make(recipe, store, request, known=lock).lock)
    if here and not is_explained(changed):
        changed = _versions_here(recipe, store, request, lock) or changed
    return lock, changed


def _versions_here(
    recipe: Path, store: Store, request: PlanOptions, lock: Lockfile
) -> tuple[LockDifference, ...]:
    """Versions of this machine that differ from the lock; none where the packages are missing."""
    try:
        found = differences(lock, _of_this_machine(recipe, store, request, lock))
    except MmbuildError as error:
        if error.code not in _CANNOT_BUILD:
            raise
        return ()
    return found if is_explained(found) else ()


def prepare_locked(request: PlanOptions, store: Store, *, builds: bool) -> Prepared:
    """Prepare recipes according to their locks, as :func:`mmbuild.pipeline.planning.prepare` but uncached.

    Args:
        request: The recipes, each of which has a lock.
        store: The store, for digests of user files.
        builds: Whether the plan will be applied on this machine: see :func:`plan_locked`.

    Raises:
        LockError: MM800 to MM803.
        UsageError: MM804.
        MmbuildError: A recipe has errors.
    """
    plans = [plan_locked(recipe, store, request, builds=builds) for recipe in request.paths]
    findings = tuple(dict.fromkeys(finding for plan in plans for finding in plan.findings))
    calibrated = calibration_note(graph for plan in plans for graph in plan.graphs)
    notes = "\n".join(dict.fromkeys(note for note in (*(plan.note for plan in plans), calibrated) if note))
    return Prepared(
        tuple(graph for plan in plans for graph in plan.graphs),
        {variant.name: derivation_lines(variant) for plan in plans for variant in plan.variants},
        running_lines(variant for plan in plans for variant in plan.variants),
        "\n".join(text for text in (render_text(findings) if findings else "", notes) if text),
    )


def refuse_overrides(overrides: Collection[str]) -> None:
    """Refuse ``--set`` together with ``--locked``.

    Raises:
        UsageError: MM804.
    """
    if overrides:
        raise UsageError(
            "`--set` cannot be combined with `--locked`",
            code="MM804",
            hint="write the value into the recipe and run `mmbuild lock`, or leave out `--locked`",
        )


def plan_locked(recipe: Path, store: Store, request: PlanOptions, *, builds: bool = True) -> LockedPlan:
    """Lower ``recipe`` according to its lock.

    Args:
        recipe: The recipe, which has a lock.
        store: The store, for digests of user files.
        request: How to load the recipe; its paths are not used.
        builds: Whether this machine must be able to build the plan. If not, locked packages that are not installed
            and another target only become the plan's ``note``: keys do not depend on them.

    Raises:
        LockError: MM800, MM801; MM802, recipe, files, versions or the hub's files differ; MM803, the lock's target
            cannot be built here.
        MissingPackageError, CalibrationError, TensorRTError: A locked package is not installed.
        UsageError: MM804, there are overrides.
        MmbuildError: The recipe has errors.
    """
    refuse_overrides(request.overrides)
    path = lock_path(recipe)
    lock = read_lock(path)
    plan = make(recipe, store, request, known=lock)
    changed = differences(lock, plan.lock)
    if changed and not is_explained(changed):
        changed = _versions_here(recipe, store, request, lock) or changed
    if changed:
        raise refuse(path, changed, hint=hint_for(changed, recipe))
    try:
        changed = differences(lock, _of_this_machine(recipe, store, request, lock))
        if changed:
            raise refuse(path, changed, hint=hint_for(changed, recipe))
        _require_target(path, lock.target, this_target())
    except MmbuildError as error:
        if builds or error.code not in _CANNOT_BUILD:
            raise
        return replace(
            plan, note=f"note: this machine can plan with `{path}` but not apply it: {error.message}"
        )
    return plan


def _of_this_machine(recipe: Path, store: Store, request: PlanOptions, lock: Lockfile) -> Lockfile:
    """The lock of ``recipe`` with the versions of this machine."""
    return make(recipe, store, request, known=lock, update=("packages",)).lock


def hint_for(changed: Collection[LockDifference], recipe: Path) -> str:
    """What to do about differences from the lock of ``recipe``, by the parts that differ."""
    parts = {difference.part for difference in changed}
    if parts <= {"environments"}:
        return (
            "install the locked versions in this environment, or update the lock: "
            f"`mmbuild lock --update packages {recipe}`"
        )
    update = f"`mmbuild lock {recipe}` updates the lock; review its changes and commit them"
    return f"`mmbuild why {recipe}` names the changed keys, and {update}" if "recipe" in parts else update


def lower_locked(
    variant: ResolvedRecipe, store: Store, lock: Lockfile | None, *, offline: bool
) -> RecipeGraph:
    """Lower a variant as a plan with ``lock`` does; None stands for a plan without one."""
    target, pins = (None, NO_PINS) if lock is None else (lock.target, lock.pins)
    return lower_all((variant,), store, target=target, offline=offline, pins=pins)[0]


def _require_target(path: Path, locked: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Require the locked GPU, or a CPU with the locked instruction set: engines are tested after the build."""
    has_isa = locked["isa"] is None or host.runs_on(str(locked["isa"]), str(here["isa"]))
    same_gpu = locked["device"] == "cpu" or (here["device"], here["sm"]) == (locked["device"], locked["sm"])
    if has_isa and same_gpu:
        return
    raise LockError(
        f"`{path}` locks the target {_target(locked)}, but this host is {_target(here)}",
        code="MM803",
        hint="apply it on a host of that kind, or lock this one with `mmbuild lock --update target`",
    )


def _target(target: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in target.items() if value is not None)
