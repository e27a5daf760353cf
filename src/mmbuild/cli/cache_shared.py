"""The commands of ``mmbuild cache`` for a shared store, which ``mmbuild.cli.cache`` lists."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.core.store.action_cache import Record
    from mmbuild.core.store.gc import GcResult
    from mmbuild.core.store.layout import Store
    from mmbuild.pipeline.options import PlanOptions
    from mmbuild.team.remote_cache.remote_cache import SharedStore

_REMOTE = click.option("--remote", metavar="URL", help="Shared store (default: the configured one).")


@commands.command("push")
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


@commands.command("pull")
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


@commands.command("keygen")
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


def collect_remote(
    store: Store, remote: str, limit: int | None, older_than: float | None, *, dry_run: bool
) -> GcResult:
    """Remove artifacts from a shared store that neither its age and size limits nor builds on this machine keep.

    Args:
        store: The store of this machine.
        remote: URL of the shared store; empty for the configured one.
        limit: Bytes that may remain.
        older_than: Seconds for which an artifact must be unused.
        dry_run: Remove nothing.

    Raises:
        RemoteError: MM820, no shared store is configured.
    """
    from mmbuild.core.store.reachability import live_roots, reached_by
    from mmbuild.team.remote_cache.gc import collect

    shared = _shared(store, remote)
    keep = reached_by(live_roots(store)).keys()
    return collect(shared, max_size=limit, older_than=older_than, keep=keep, dry_run=dry_run)


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
