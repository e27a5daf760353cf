"""``mmbuild lock``: pin what recipes leave open, so that a whole team builds the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.core.store.layout import Store
    from mmbuild.pipeline.options import PlanOptions
    from mmbuild.team.lockfile.make import LockedPlan

_PARTS = ("model", "packages", "target", "all")


@commands.command("lock")
@options.recipe_paths
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a lock is missing or out of date.")
@click.option(
    "--update",
    multiple=True,
    type=click.Choice(_PARTS),
    help="Update a part: commits from the hub, versions of this environment, this host as target.",
)
@options.planning("offline", "allow_outside")
@options.store
def command(
    *,
    request: PlanOptions,
    check: bool,
    update: tuple[str, ...],
    store: Path | None,
) -> None:
    """Write RECIPE.lock next to each recipe: commits, digests, versions, target, and the hash of the plan.

    Existing pins are kept unless `--update` is used; recipes and local files are read again.

    \b
    Example:
      mmbuild lock recipes/llava-int4.yaml
      mmbuild lock --check recipes/*.yaml
      mmbuild apply --locked recipes/llava-int4.yaml
    """
    from mmbuild.core.store.layout import open_store
    from mmbuild.pipeline.recipe_files import with_files

    if check and update:
        raise click.UsageError("--check cannot be combined with --update: it writes nothing")
    request = with_files(request)
    opened = open_store(store)
    if check:
        same = [_check(recipe, opened, request) for recipe in request.paths]
        if not all(same):
            sys.exit(1)
        return
    for recipe in request.paths:
        _write(recipe, opened, request, update)


def _check(recipe: Path, store: Store, request: PlanOptions) -> bool:
    from mmbuild.base.errors import MmbuildError
    from mmbuild.cli.output import print_note, report_error
    from mmbuild.team.lockfile import apply
    from mmbuild.team.lockfile.compare import refuse
    from mmbuild.team.lockfile.model import lock_path

    try:
        _, changes = apply.check(recipe, store, request, here=True)
        if changes:
            raise refuse(lock_path(recipe), changes, hint=apply.hint_for(changes, recipe))
    except MmbuildError as error:
        report_error(error)
        return False
    print_note(f"{lock_path(recipe)}: up to date")
    return True


def _write(recipe: Path, store: Store, request: PlanOptions, update: tuple[str, ...]) -> None:
    from mmbuild.cli.output import print_findings, print_note, print_status
    from mmbuild.team.lockfile.compare import differences
    from mmbuild.team.lockfile.make import PARTS, make
    from mmbuild.team.lockfile.model import lock_path, read_lock, write_lock

    path = lock_path(recipe)
    known = read_lock(path) if path.exists() else None
    parts = PARTS if "all" in update else update
    result = make(recipe, store, request, known=known, update=parts)
    if result.findings:
        print_findings(result.findings)
    _note_open(result)
    changes = differences(known, result.lock) if known is not None else ()
    if known is not None and not changes:
        print_note(f"{path}: unchanged")
    else:
        write_lock(path, result.lock)
        for item in changes:
            print_status(f"  {item}")
    click.echo(str(path))


def _note_open(result: LockedPlan) -> None:
    """Say which sources stay open, because their commits are unknown without the hub."""
    from mmbuild.cli.output import print_note

    actions = [action for graph in result.graphs for action in graph.actions]
    unknown = {
        str(action.params["repo"])
        for action in actions
        if "commit" in action.params and not action.params["commit"]
    }
    for repo in sorted(unknown):
        print_note(f"note: `{repo}` is not pinned, because its commit is unknown offline: lock it online")
