"""``mmbuild cache``: list, check and shrink the store, and share it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.core.store.action_cache import Record
    from mmbuild.core.store.gc import GcResult
    from mmbuild.core.store.layout import Store
    from mmbuild.core.store.reachability import Reachable
    from mmbuild.pipeline.options import PlanOptions
    from mmbuild.team.remote_cache.remote_cache import SharedStore

_SIZES = {"": 1, "b": 1} | {
    letter + b: 1000**power for power, letter in enumerate("kmgt", start=1) for b in ("", "b")
}
"""The empty unit is that of 0, which is the same in all units."""
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Quantity(click.ParamType[float]):
    """A number with a unit: ``20GB``, ``30d``."""

    def __init__(self, name: str, units: dict[str, int], pattern: str, example: str) -> None:
        self.name, self.units, self.pattern, self.example = name, units, pattern, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return value
        match = re.fullmatch(self.pattern, str(value).strip().lower())
        if match is None:
            self.fail(f"invalid {self.name} {value!r}: expected for example {self.example}", param, ctx)
        return float(match[1]) * self.units[match[2]]


_SIZE = _Quantity("size", _SIZES, r"(\d+(?:\.\d+)?)\s*([kmgt]?b|[kmgt]|(?<=^0))", "500MB or 20GB")
_AGE = _Quantity("age", _AGES, r"(\d+(?:\.\d+)?)\s*([smhdw])", "12h or 30d")


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
    from mmbuild.core.store.layout import open_store
    from mmbuild.core.store.reachability import reachable_artifacts

    opened = open_store(store)
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
    from mmbuild.core.store.layout import open_store
    from mmbuild.core.store.verify import check_store

    with working("checking the store") as progress:
        result = check_store(open_store(store), progress)
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
    type=_SIZE,
    metavar="SIZE",
    help="Remove until the store is no larger than this: 500MB, 20GB.",
)
@click.option(
    "--older-than", type=_AGE, metavar="AGE", help="Only remove artifacts unused for this long: 12h, 30d."
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
    from mmbuild.core.store.layout import open_store

    limit = None if max_size is None else int(max_size)
    if remote is not None:
        if limit is None and older_than is None:
            raise click.UsageError(
                "--remote needs --older-than or --max-size: the builds of other machines are unknown"
            )
        _gc_remote(open_store(store), remote, limit, older_than, dry_run=dry_run)
        return
    swept = collect(open_store(store), max_size=limit, older_than=older_than, dry_run=dry_run)
    for item in swept.removed:
        click.echo(f"{item.digest[:16]}  {size_text(item.size):>9}  {item.label}")
    verb = "would free" if dry_run else "freed"
    print_note(
        f"{verb} {size_text(swept.freed)}{_shared_text(swept)}; "
        f"{swept.kept} artifacts kept ({size_text(swept.kept_size)})"
    )
    if limit is not None and swept.kept_size > limit:
        print_note("existing builds use what is left; remove an engine directory to free its artifacts")


_REMOTE = click.option("--remote", metavar="URL", help="Shared store (default: the configured one).")


@command.command("push")
@click.argument("recipes", nargs=-1, type=click.Path(path_type=Path), metavar="[RECIPE...]")
@options.planning("overrides", "offline", "allow_outside")
@options.store
@_REMOTE
def push(*, request: PlanOptions, store: Path | None, remote: str | None) -> None:
    """Upload results to the shared store: everything in this store, or what the recipes need.

    Results that are already there are not uploaded again; the first published result of an action is kept.

    \b
    Example:
      mmbuild cache push
      mmbuild cache push recipes/llava-int4.yaml --remote file:///srv/mmbuild
    """
    from mmbuild.base.errors import MmbuildError
    from mmbuild.base.formatting import size_text
    from mmbuild.cli.output import print_note, print_status
    from mmbuild.core.store.layout import open_store
    from mmbuild.core.store.locks import shared_lock
    from mmbuild.pipeline.recipe_files import with_files
    from mmbuild.team.remote_cache.push import PushResult, push_all

    opened = open_store(store)
    shared = _shared(opened, remote)
    uploaded = 0

    def report(record: Record, outcome: PushResult | MmbuildError) -> None:
        nonlocal uploaded
        if isinstance(outcome, MmbuildError):
            print_status(f"failed  {record.label}: {outcome.message} [{outcome.code}]")
            return
        uploaded += outcome.carried
        print_note(f"{outcome.outcome:<10}  {record.label}  {size_text(outcome.carried)}")

    with shared_lock(opened):
        records = _built(opened, with_files(request))
        failed = push_all(shared, records, report)
    print_note(
        f"{len(records)} results, {size_text(uploaded)} uploaded to `{shared.settings.shown}`, {failed} failed"
    )
    if failed:
        sys.exit(1)


@command.command("pull")
@options.recipes
@options.location_options
@_REMOTE
def pull(
    *,
    request: PlanOptions,
    store: Path | None,
    build_dir: Path,
    remote: str | None,
) -> None:
    """Download what an apply of the recipes would pull, without building; the next apply needs no network.

    \b
    Example:
      mmbuild cache pull recipes/llava-int4.yaml
    """
    from mmbuild.api import plan_graphs
    from mmbuild.cli.output import print_note
    from mmbuild.core.execution.progress import display
    from mmbuild.core.graph.plan_text import summary
    from mmbuild.core.store.layout import open_store
    from mmbuild.core.store.locks import shared_lock
    from mmbuild.pipeline.planning import prepare
    from mmbuild.pipeline.recipe_files import with_files
    from mmbuild.team.remote_cache.sync import pull_planned

    opened = open_store(store)
    shared = _shared(opened, remote)
    shared.settings = replace(shared.settings, pull=True)
    prepared = prepare(with_files(request), opened)
    plan = plan_graphs(prepared.graphs, opened, build_dir, remote=lambda: shared)
    with shared_lock(opened), display(plan) as sink:
        plan = pull_planned(plan, shared, sink)
    print_note(f"left for apply: {summary(plan)}")


@command.command("keygen")
@click.argument("file", type=click.Path(path_type=Path))
def keygen(*, file: Path) -> None:
    """Create a key for signing published results and print its public half for the store.trusted_keys of others.

    \b
    Example:
      mmbuild cache keygen ~/.config/mmbuild/signing.pem
    """
    from mmbuild.cli.output import print_note
    from mmbuild.team.remote_cache.signatures import make_key

    public = make_key(file.expanduser())
    print_note(
        f"wrote `{file}`; keep it secret, and set store.signing_key or MMBUILD_SIGNING_KEY to its path"
    )
    click.echo(public)


def _shared(store: Store, remote: str | None) -> SharedStore:
    from mmbuild.config.remote_errors import RemoteError
    from mmbuild.team.remote_cache.remote_cache import open_shared

    shared = open_shared(store, remote or None)
    if shared is None:
        raise RemoteError(
            "no shared store is configured",
            code="MM820",
            hint="give `--remote URL`, set MMBUILD_REMOTE, or add `store: {remote: URL}` to the configuration",
        )
    return shared


def _built(store: Store, request: PlanOptions) -> list[Record]:
    """Results with artifacts in this store, oldest first: all, or those that the recipes of ``request`` need."""
    from mmbuild.core.store.action_cache import load_cache

    cache = load_cache(store)
    records = [record for record in cache.by_key.values() if store.has(record.digest)]
    if not request.paths:
        return records
    from mmbuild.api import plan_graphs
    from mmbuild.pipeline.planning import prepare

    graphs = prepare(request, store).graphs
    plan = plan_graphs(graphs, store, remote=lambda: None)
    required = {planned.record.key for planned in plan.actions if planned.record is not None}
    return [record for record in records if record.key in required]


def _gc_remote(
    store: Store, remote: str, limit: int | None, older_than: float | None, *, dry_run: bool
) -> None:
    from mmbuild.base.formatting import size_text
    from mmbuild.cli.output import print_note
    from mmbuild.core.store.reachability import live_roots, reached_by
    from mmbuild.team.remote_cache.gc import collect

    shared = _shared(store, remote)
    keep = reached_by(live_roots(store)).keys()
    swept = collect(shared, max_size=limit, older_than=older_than, keep=keep, dry_run=dry_run)
    for item in swept.removed:
        click.echo(f"{item.digest[:16]}  {size_text(item.size):>9}  {item.label}")
    verb = "would free" if dry_run else "freed"
    print_note(f"{verb} {size_text(swept.freed)}; {swept.kept} artifacts kept ({size_text(swept.kept_size)})")


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
