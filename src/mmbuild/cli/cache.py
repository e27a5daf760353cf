"""``mmbuild cache``: list, check and shrink the store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import commands, options
from mmbuild.cli.cache_shared import collect_remote, keygen, pull, push
from mmbuild.cli.quantities import AGE, SIZE

if TYPE_CHECKING:
    from mmbuild.core.store.gc import GcResult
    from mmbuild.core.store.reachability import Reachable


@commands.group("cache")
def command() -> None:
    """List, check and shrink the store; share it with other machines.

    \b
    Example:
      mmbuild cache ls
      mmbuild cache gc --older-than 30d --dry-run
      mmbuild cache push --remote s3://team/mmbuild
    """


@command.command("ls")
@options.store
@options.json_option()
def ls(*, store: Path | None, as_json: bool) -> None:
    """List artifacts, most recently used first, with the builds that use them.

    \b
    Example:
      mmbuild cache ls --json
    """
    from mmbuild.base.formatting import size_text
    from mmbuild.cli.output import print_note
    from mmbuild.cli.tables import print_untitled
    from mmbuild.core.store.action_cache import load_cache
    from mmbuild.core.store.layout import existing_store
    from mmbuild.core.store.reachability import reachable_artifacts

    opened = existing_store(store)
    artifacts = reachable_artifacts(opened, load_cache(opened))
    if as_json:
        click.echo(
            json.dumps({"schema": 1, "store": str(opened.root), "artifacts": [_row(i) for i in artifacts]})
        )
        return
    print_untitled(
        [
            (item.digest[:16], f"{size_text(item.size):>9}", item.label, ", ".join(item.recipes) or "-")
            for item in artifacts
        ]
    )
    print_note(f"{len(artifacts)} artifacts in `{opened.root}`")


@command.command("verify")
@options.store
def verify(*, store: Path | None) -> None:
    """Rehash the store and remove damaged artifacts and everything built from them.

    Exit status 1 if anything was damaged. Engine directories whose files were modified are reported; the next apply
    repairs them.

    \b
    Example:
      mmbuild cache verify
    """
    from mmbuild.base.status_line import working
    from mmbuild.cli.output import print_note, print_status
    from mmbuild.core.store.layout import existing_store
    from mmbuild.core.store.verify import check_store

    with working("checking the store") as progress:
        result = check_store(existing_store(store), progress)
    for fault in result.faults:
        click.echo(f"removed: {fault}")
    for label in result.consumers:
        click.echo(f"removed: the result of `{label}`, which was built from a damaged artifact")
    for build in result.builds:
        click.echo(f"voided: {build}")
    if result.leftovers:
        print_status(f"{result.leftovers} leftovers of killed builds (harmless)")
    print_status(
        f"{result.objects} objects and {result.artifacts} artifacts checked, {len(result.faults)} faults"
    )
    if result.faults or result.builds:
        print_note("the next apply rebuilds what was removed and reinstalls the voided engines")
        sys.exit(1)


@command.command("gc")
@options.store
@click.option(
    "--max-size",
    type=SIZE,
    metavar="SIZE",
    help="Remove until the store is no larger than this: 500MB, 20GB.",
)
@click.option(
    "--older-than", type=AGE, metavar="AGE", help="Only remove artifacts unused for this long: 12h, 30d."
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@click.option(
    "--remote",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[URL]",
    help="Clean the shared store instead (default: the configured one).",
)
def gc(
    *,
    store: Path | None,
    max_size: float | None,
    older_than: float | None,
    dry_run: bool,
    remote: str | None,
) -> None:
    """Remove artifacts that no existing build/<recipe> uses, least recently used first.

    In a shared store the builds of other machines are unknown, so an age or a size limit is required.

    \b
    Example:
      mmbuild cache gc --max-size 20GB --dry-run
      mmbuild cache gc --remote --older-than 60d --max-size 2TB
    """
    from mmbuild.base.formatting import size_text
    from mmbuild.cli.output import print_note
    from mmbuild.core.store.gc import collect
    from mmbuild.core.store.layout import existing_store, open_store

    limit = None if max_size is None else int(max_size)
    swept: GcResult
    if remote is None:
        swept = collect(existing_store(store), max_size=limit, older_than=older_than, dry_run=dry_run)
    elif limit is None and older_than is None:
        raise click.UsageError(
            "--remote needs --older-than or --max-size: the builds of other machines are unknown"
        )
    else:
        swept = collect_remote(open_store(store), remote, limit, older_than, dry_run=dry_run)
    for item in swept.removed:
        click.echo(f"{item.digest[:16]}  {size_text(item.size):>9}  {item.label}")
    verb = "would free" if dry_run else "freed"
    shared_files = _shared_text(swept) if remote is None else ""
    print_note(
        f"{verb} {size_text(swept.freed)}{shared_files}; "
        f"{swept.kept} artifacts kept ({size_text(swept.kept_size)})"
    )
    if remote is None and limit is not None and swept.kept_size > limit:
        print_note("existing builds use what is left; remove an engine directory to free its artifacts")


for _shared_command in (push, pull, keygen):
    command.add_command(_shared_command)


def _shared_text(swept: GcResult) -> str:
    """Why less is freed than the sizes of the removed artifacts add up to, if it is less."""
    from mmbuild.base.formatting import size_text

    listed = sum(item.size for item in swept.removed)
    if listed <= swept.freed:
        return ""
    return f" of {size_text(listed)}, because artifacts share files"


def _row(item: Reachable) -> dict[str, Any]:
    return {
        "digest": item.digest,
        "label": item.label,
        "size": item.size,
        "used": item.used,
        "recipes": list(item.recipes),
        "files": len(item.tree.entries) if item.tree is not None else None,
    }
