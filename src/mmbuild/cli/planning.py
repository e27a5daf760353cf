"""Plans the recipes of a command line; shared by plan, apply and graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.cli.output import print_status
from mmbuild.core.graph.keys import is_sound
from mmbuild.core.graph.plan import Plan
from mmbuild.core.store.layout import Store, open_store
from mmbuild.core.store.plan_cache import forget_entry
from mmbuild.pipeline.planning import PlanOptions, Prepared, prepare


@dataclass(frozen=True, slots=True)
class Planning:
    """A plan with the inputs it was made from."""

    plan: Plan
    prepared: Prepared
    request: Mapping[str, Any]


def plan_request(
    recipes: tuple[Path, ...],
    overrides: tuple[str, ...],
    *,
    offline: bool,
    allow_outside: bool | None,
    store: Path | None,
    build_dir: Path,
    locked: bool = False,
) -> Planning:
    """Load recipes and plan them, with ``locked`` as pinned by their locks; warnings go to standard error.

    Raises:
        MmbuildError: see :func:`mmbuild.pipeline.planning.prepare` and
            :func:`mmbuild.team.lockfile.apply.prepare_locked`.
    """
    from mmbuild.api import plan_graphs

    opened = open_store(store)
    options = PlanOptions(recipes, overrides, offline, allow_outside)
    if locked:
        prepared = _prepare_locked(recipes, overrides, offline, allow_outside, opened)
    else:
        prepared = prepare(options, opened)
    plan = plan_graphs(prepared.graphs, opened, build_dir)
    if prepared.cached and not _is_sound(plan):
        forget_entry(opened, prepared.entry)
        prepared = prepare(options, opened, again=True)
        plan = plan_graphs(prepared.graphs, opened, build_dir)
    if prepared.warnings:
        print_status(prepared.warnings.rstrip())
    request = {
        "recipes": [str(path.absolute()) for path in recipes],
        "overrides": list(overrides),
        "offline": offline,
        "allow_outside": allow_outside,
        "store": str(opened.root),
        "build_dir": str(build_dir.absolute()),
        "locked": locked,
    }
    return Planning(plan, prepared, request)


def _is_sound(plan: Plan) -> bool:
    """Whether the keys of all actions to run match their content; others cost nothing and need no check."""
    return all(is_sound(planned.action) for planned in plan.actions if planned.record is None)


def plan_again(request: Mapping[str, Any]) -> Planning:
    """Plan the request of a saved plan again.

    Raises:
        MmbuildError: see :func:`plan_request`.
    """
    return plan_request(
        tuple(Path(path) for path in request["recipes"]),
        tuple(request["overrides"]),
        offline=bool(request["offline"]),
        allow_outside=request["allow_outside"],
        store=Path(request["store"]),
        build_dir=Path(request["build_dir"]),
        locked=bool(request.get("locked")),
    )


def _prepare_locked(
    recipes: tuple[Path, ...],
    overrides: tuple[str, ...],
    offline: bool,
    allow_outside: bool | None,
    store: Store,
) -> Prepared:
    from mmbuild.team.lockfile.apply import prepare_locked, refuse_overrides
    from mmbuild.team.lockfile.make import LockOptions

    refuse_overrides(overrides)
    return prepare_locked(recipes, store, LockOptions(offline, allow_outside))
