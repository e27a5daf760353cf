"""``mmbuild ci``: run one job of a matrix."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import github, options

if TYPE_CHECKING:
    from mmbuild.ci.jobs import Job
    from mmbuild.ci.tally import Tally
    from mmbuild.ci.variants import Asked, Variants
    from mmbuild.execute.result import Result
    from mmbuild.graph.action import RecipeGraph
    from mmbuild.graph.plan import Plan
    from mmbuild.store.layout import Store


@click.command("ci")
@options.recipes
@options.places
@options.locked
@click.option("--job", "name", metavar="NAME", required=True, help="A job that `mmbuild matrix` listed.")
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Actions at once (default: one for each core)."
)
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, run what does not depend on it.")
@click.option("--ignore-estimates", is_flag=True, help="Start even if memory or disk look too small.")
@github.reported
@click.pass_context
def command(
    context: click.Context,
    *,
    recipes: tuple[Path, ...],
    overrides: tuple[str, ...],
    offline: bool,
    allow_outside: bool | None,
    store: Path | None,
    build_dir: Path,
    locked: bool,
    name: str,
    jobs: int | None,
    keep_going: bool,
    ignore_estimates: bool,
    layout: str,
) -> None:
    """Run one job of a matrix: what `mmbuild matrix` listed for the same recipes and the same --set.

    A job that several variants need makes results and no engine directory; the others take them from the shared
    store, or make them where there is none.

    \b
    Example:
      mmbuild matrix recipes
      mmbuild ci recipes --job shared-llava-1.5-7b
      mmbuild ci recipes --job llava-1.5-7b-int4
    """
    from mmbuild.ci.jobs import job_named, jobs_of
    from mmbuild.ci.variants import Asked
    from mmbuild.cli.matrix import plan_and_warn
    from mmbuild.store.layout import open_store

    opened, asked = open_store(store), Asked(overrides, offline, allow_outside, locked)
    planned = plan_and_warn(recipes, opened, asked)
    job = job_named(jobs_of(planned.planned), name)
    if locked:
        _require_locked(planned, job, opened, asked)
    debug = bool(context.obj and context.obj.get("debug"))
    plan = _plan([job.graph], opened, build_dir)
    how = {"jobs": jobs, "keep_going": keep_going, "ignore_estimates": ignore_estimates}
    tally, result = _apply(plan, how, debug=debug)
    if layout == "github":
        github.report(plan, tally, result, map(Path, job.files))
    if not result.ok:
        sys.exit(1)


def _require_locked(planned: Variants, job: Job, store: Store, asked: Asked) -> None:
    """What this machine builds must be what the locks say, also of versions and of the target."""
    from mmbuild.lock import apply, make

    for file in {variant.file for variant in planned.planned if variant.name in job.variants}:
        apply.planned(file, store, make.Asked(asked.offline, asked.allow_outside))


def _plan(graphs: Sequence[RecipeGraph], store: Store, build_dir: Path) -> Plan:
    from mmbuild.api import plan_graphs

    return plan_graphs(graphs, store, build_dir)


def _apply(plan: Plan, how: Mapping[str, Any], *, debug: bool) -> tuple[Tally, Result]:
    """Do what ``plan`` says, with plain lines; ``how``: arguments of :func:`mmbuild.api.run`."""
    from mmbuild.api import run
    from mmbuild.ci.tally import Tally
    from mmbuild.cli.output import say, tell_failed
    from mmbuild.execute.progress import display

    tally = Tally()
    with display(plan, live=False) as sink:
        result = run(plan, sink=tally.watching(sink), **how)
    for failed in result.failed:
        say()
        tell_failed(failed, debug=debug)
    if not result.ok:
        say(f"{len(result.failed)} failed, {len(result.ran)} ran; finished actions are kept")
        return tally, result
    say(f"done in {result.seconds:.1f} s: {len(result.ran)} ran, {len(result.reused)} reused")
    for build in plan.builds:
        click.echo(str(build.directory))
    return tally, result
