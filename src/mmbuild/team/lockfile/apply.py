"""Planning what locks say: each recipe under its own lock, refused where what is here is something else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.base import host
from mmbuild.base.diagnostics import render_text
from mmbuild.base.errors import UsageError
from mmbuild.core.store.layout import Store
from mmbuild.pipeline.planning import Prepared, derivation_lines
from mmbuild.team.lockfile.compare import LockDifference, differences, refuse
from mmbuild.team.lockfile.make import LockedPlan, LockOptions, make, this_target
from mmbuild.team.lockfile.model import LockError, Lockfile, lock_path, read_lock

_REFUSED = "Bring this environment to what is locked, or move the lock on: `mmbuild lock --update PART`"


def check(recipe: Path, store: Store, options: LockOptions) -> tuple[Lockfile, tuple[LockDifference, ...]]:
    """The lock of ``recipe``, and where the recipe and its files say something else.

    The lock's own word is taken for versions, commits and target: no machine of the team has to be this one.

    Raises:
        LockError: MM800, MM801.
        MmbuildError: The recipe has errors.
    """
    lock = read_lock(lock_path(recipe))
    return lock, differences(lock, make(recipe, store, options, known=lock).lock)


def prepare_locked(recipes: Sequence[Path], store: Store, options: LockOptions) -> Prepared:
    """All ``recipes`` as their locks say; as :func:`mmbuild.pipeline.planning.prepare`, and never from its cache.

    Raises:
        LockError: MM800 to MM803.
        MmbuildError: A recipe has errors.
    """
    found = [plan_locked(recipe, store, options) for recipe in recipes]
    findings = tuple(dict.fromkeys(item for one in found for item in one.findings))
    return Prepared(
        tuple(graph for one in found for graph in one.graphs),
        {variant.name: derivation_lines(variant) for one in found for variant in one.variants},
        render_text(findings) if findings else "",
    )


def refuse_overrides(overrides: Collection[str]) -> None:
    """With a lock, nothing is set from outside.

    Raises:
        UsageError: MM804.
    """
    if overrides:
        raise UsageError(
            "--set cannot change what is locked",
            code="MM804",
            hint="Write it into the recipe and run `mmbuild lock`, or leave out --locked",
        )


def plan_locked(recipe: Path, store: Store, options: LockOptions) -> LockedPlan:
    """``recipe`` lowered as its lock says, on a machine that builds the same.

    Raises:
        LockError: MM800, MM801; MM802, recipe, files, versions or the hub's files differ; MM803, the lock's target
            cannot be built here.
        MmbuildError: The recipe has errors.
    """
    path = lock_path(recipe)
    lock = read_lock(path)
    found = make(recipe, store, options, known=lock)
    apart = differences(lock, found.lock)
    if apart:
        raise refuse(path, apart, hint="Run `mmbuild lock` and look at what changed in it")
    here = make(recipe, store, options, known=lock, update=("packages",))
    apart = differences(lock, here.lock)
    if apart:
        raise refuse(path, apart, hint=_REFUSED)
    _require_target(path, lock.target, this_target())
    return found


def _require_target(path: Path, locked: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Engines are tried where they are built: the GPU must be the locked one, the CPU at least that able."""
    able = locked["isa"] is None or host.runs_on(str(locked["isa"]), str(here["isa"]))
    same_gpu = locked["device"] == "cpu" or (here["device"], here["sm"]) == (locked["device"], locked["sm"])
    if able and same_gpu:
        return
    raise LockError(
        f"`{path}` locks the target {_target(locked)}, and this host is {_target(here)}",
        code="MM803",
        hint="Apply it on a host of that kind, or lock this one with `mmbuild lock --update target`",
    )


def _target(target: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in target.items() if value is not None)
