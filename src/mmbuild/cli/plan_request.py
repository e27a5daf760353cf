"""Plans the recipes of a command line; shared by plan, apply and graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.status_line import working
from mmbuild.base.terminal_text import one_line
from mmbuild.cli.output import print_note
from mmbuild.core.graph.keys import is_sound
from mmbuild.core.graph.plan import Plan
from mmbuild.core.store.layout import Store, open_store
from mmbuild.core.store.plan_cache import forget_entry
from mmbuild.pipeline.options import PlanOptions
from mmbuild.pipeline.planning import Prepared, prepare
from mmbuild.pipeline.recipe_files import with_files


@dataclass(frozen=True, slots=True)
class Planning:
    """A plan with the inputs it was made from."""

    plan: Plan
    prepared: Prepared
    request: Mapping[str, Any]


def plan_request(
    request: PlanOptions, store: Path | None, build_dir: Path, *, builds: bool = False
) -> Planning:
    """Load recipes, also those in directories, and plan them; warnings go to standard error.

    With ``builds``, which an apply sets, locked recipes are refused where they cannot be built.

    Raises:
        MmbuildError: see :func:`mmbuild.pipeline.planning.prepare`,
            :func:`mmbuild.team.lockfile.apply.prepare_locked` and
            :func:`mmbuild.pipeline.recipe_files.with_files`.
    """
    request = with_files(request)
    opened = open_store(store)
    with working("planning"):  # models are hashed if they have changed, and the hub may be slow
        prepared, plan = _planned(request, opened, build_dir, builds)
    if prepared.warnings:
        print_note(prepared.warnings.rstrip())
    saved = {
        "recipes": [str(path.absolute()) for path in request.paths],
        "overrides": list(request.overrides),
        "offline": request.offline,
        "allow_outside": request.allow_outside,
        "store": str(opened.root),
        "build_dir": str(build_dir.absolute()),
        "locked": request.locked,
    }
    return Planning(plan, prepared, saved)


def _planned(request: PlanOptions, store: Store, build_dir: Path, builds: bool) -> tuple[Prepared, Plan]:
    from mmbuild.api import plan_graphs

    prepared = _prepare_locked(request, store, builds) if request.locked else prepare(request, store)
    plan = plan_graphs(prepared.graphs, store, build_dir)
    if prepared.cached and not _is_sound(plan):
        forget_entry(store, prepared.entry)
        prepared = prepare(request, store, again=True)
        plan = plan_graphs(prepared.graphs, store, build_dir)
    return prepared, plan


def _is_sound(plan: Plan) -> bool:
    """Whether the keys of all actions to run match their content; others cost nothing and need no check."""
    return all(is_sound(planned.action) for planned in plan.actions if planned.record is None)


def note_replaced(plan: Plan) -> None:
    """Print a note for each engine directory that an apply replaces and that another recipe file has filled."""
    for build in plan.builds:
        if build.replaces:
            print_note(
                f"note: `{build.directory.parent.name}/{build.recipe}` was built from `{one_line(build.replaces)}`; "
                f"an apply replaces it with the engine of `{one_line(build.file)}`"
            )


def plan_again(saved: Mapping[str, Any], *, builds: bool) -> Planning:
    """Plan the request of a saved plan again; ``builds`` as in :func:`plan_request`.

    Raises:
        MmbuildError: see :func:`plan_request`.
    """
    request = PlanOptions(
        tuple(Path(path) for path in saved["recipes"]),
        tuple(saved["overrides"]),
        offline=bool(saved["offline"]),
        allow_outside=saved["allow_outside"],
        locked=bool(saved.get("locked")),
    )
    return plan_request(request, Path(saved["store"]), Path(saved["build_dir"]), builds=builds)


def _prepare_locked(request: PlanOptions, store: Store, builds: bool) -> Prepared:
    from mmbuild.team.lockfile.apply import prepare_locked

    return prepare_locked(request, store, builds=builds)
