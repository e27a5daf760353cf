"""``mmbuild lock``: write down what recipes do not say, for a whole team."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import options

if TYPE_CHECKING:
    from mmbuild.core.store.layout import Store
    from mmbuild.team.lockfile.make import LockOptions

_PARTS = ("model", "packages", "target", "all")


@click.command("lock")
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECIPE...")
@click.option(
    "--check", is_flag=True, help="Write nothing; exit with 1 where a lock is not what it should be."
)
@click.option(
    "--update",
    multiple=True,
    type=click.Choice(_PARTS),
    help="Move a part on to what it is now: the hub's commits, this environment's versions, this host.",
)
@click.option("--offline", is_flag=True, help="Ask no hub for anything.")
@click.option("--allow-outside", is_flag=True, default=None, help="Accept paths outside the project's root.")
@options.store
def command(
    *,
    recipes: tuple[Path, ...],
    check: bool,
    update: tuple[str, ...],
    offline: bool,
    allow_outside: bool | None,
    store: Path | None,
) -> None:
    """Write RECIPE.lock beside each recipe: commits, digests, versions, target, and the hash of the plan.

    What a lock says already is kept until `--update` moves it on; recipes and local files are read anew.

    \b
    Example:
      mmbuild lock recipes/llava-int4.yaml
      mmbuild lock --check recipes/*.yaml
      mmbuild apply --locked recipes/llava-int4.yaml
    """
    from mmbuild.core.store.layout import open_store
    from mmbuild.team.lockfile.make import LockOptions

    if check and update:
        raise click.UsageError("--check writes nothing, so --update has nothing to move")
    opened, requested = open_store(store), LockOptions(offline, allow_outside)
    if check:
        same = [_check(recipe, opened, requested) for recipe in recipes]
        if not all(same):
            sys.exit(1)
        return
    for recipe in recipes:
        _write(recipe, opened, requested, update)


def _check(recipe: Path, store: Store, requested: LockOptions) -> bool:
    from mmbuild.base.errors import MmbuildError
    from mmbuild.cli.output import print_status, report_error
    from mmbuild.team.lockfile import apply
    from mmbuild.team.lockfile.compare import refuse
    from mmbuild.team.lockfile.model import lock_path

    try:
        _, apart = apply.check(recipe, store, requested)
        if apart:
            raise refuse(lock_path(recipe), apart, hint="Run `mmbuild lock`, look at what changed, commit it")
    except MmbuildError as error:
        report_error(error)
        return False
    print_status(f"{lock_path(recipe)}: as it should be")
    return True


def _write(recipe: Path, store: Store, requested: LockOptions, update: tuple[str, ...]) -> None:
    from mmbuild.base.diagnostics import render_text
    from mmbuild.cli.output import print_status
    from mmbuild.team.lockfile.compare import differences
    from mmbuild.team.lockfile.make import PARTS, make
    from mmbuild.team.lockfile.model import lock_path, read_lock, write_lock

    path = lock_path(recipe)
    known = read_lock(path) if path.exists() else None
    moved = PARTS if "all" in update else update
    made = make(recipe, store, requested, known=known, update=moved)
    if made.findings:
        print_status(render_text(made.findings).rstrip())
    apart = differences(known, made.lock) if known is not None else ()
    if known is not None and not apart:
        print_status(f"{path}: nothing changed")
    else:
        write_lock(path, made.lock)
        for item in apart:
            print_status(f"  {item}")
    click.echo(str(path))
