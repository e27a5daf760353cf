"""``mmbuild ci run``: run one job of a matrix, or one of several shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, github, options

if TYPE_CHECKING:
    from mmbuild.core.execution.events import Result
    from mmbuild.core.execution.options import ApplyOptions
    from mmbuild.core.graph.action import Action, RecipeGraph
    from mmbuild.core.graph.plan import Plan
    from mmbuild.core.store.layout import Store
    from mmbuild.pipeline.options import PlanOptions
    from mmbuild.team.ci.shards import ShardPlan
    from mmbuild.team.ci.summary import EventStats
    from mmbuild.team.ci.variants import Variants


@commands.command("run", resumes=True)
@options.recipes
@options.location_options
@options.locked_option
@click.option("--job", "name", metavar="NAME", help="Run this job from `mmbuild ci plan`.")
@click.option("--shards", type=click.IntRange(min=1), metavar="N", help="Split the recipes into N shards.")
@click.option("--index", type=click.IntRange(min=1), metavar="I", help="Run this shard (the first is 1).")
@click.option(
    "--times", type=click.Path(path_type=Path), help="File with measured action times, for --shards."
)
@click.option(
    "--save-times",
    type=click.Path(path_type=Path),
    help="Write the action times measured on this machine, for --times.",
)
@options.json_option("the shards")
@options.applying("jobs", "keep_going", "ignore_estimates")
@github.annotate_errors
@click.pass_context
def command(
    context: click.Context,
    *,
    request: PlanOptions,
    store: Path | None,
    build_dir: Path,
    name: str | None,
    shards: int | None,
    index: int | None,
    times: Path | None,
    save_times: Path | None,
    as_json: bool,
    applied: ApplyOptions,
    layout: str,
) -> None:
    """Run one job of a matrix, or one of several shards.

    --job runs a job that `mmbuild ci plan` listed for the same recipes and the same --set. A job that several
    variants need produces results but no engine directory; the other jobs pull these from the shared store, or
    build them themselves.

    --shards splits all variants into independent parts that take about the same time; --index runs one of them.
    Every machine computes the same split from the same recipes, options, --times and -j.

    \b
    Example:
      mmbuild ci run recipes --job llava-1.5-7b-int4
      mmbuild ci run recipes --shards 4
      mmbuild ci run recipes --shards 4 --index 2
    """
    from mmbuild.cli.ci_plan import plan_and_warn
    from mmbuild.cli.plan_request import note_replaced
    from mmbuild.core.store.layout import open_store

    _require_one_task(name, shards, index, times, save_times, as_json=as_json)
    opened = open_store(store)
    planned = plan_and_warn(request, opened)
    if save_times is not None:
        _save_times(planned, opened, save_times)
        return
    if shards is not None and index is None:
        _print_shards(planned, shards, times, applied.jobs or 1, as_json=as_json)
        return
    chosen = (
        _job(planned, name)
        if name is not None
        else _shard(planned, shards or 1, index or 1, times, applied.jobs or 1)
    )
    if request.locked:
        _require_locked(planned, chosen, opened, request)
    plan = _plan(chosen.graphs, opened, build_dir)
    note_replaced(plan)
    tally, result = _apply(plan, applied, debug=bool(context.obj and context.obj.get("debug")))
    if layout == "github":
        github.report(plan, tally, result, sorted(_files(planned, chosen)))
    if not result.ok:
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The graphs to apply, and the variants they belong to."""

    graphs: tuple[RecipeGraph, ...]
    variants: tuple[str, ...]


def _require_one_task(
    name: str | None,
    shards: int | None,
    index: int | None,
    times: Path | None,
    save_times: Path | None,
    *,
    as_json: bool,
) -> None:
    if sum(option is not None for option in (name, shards, save_times)) != 1:
        raise click.UsageError(
            "give one of --job, --shards and --save-times; `mmbuild ci plan` lists the jobs of the recipes"
        )
    if shards is None and (index is not None or times is not None or as_json):
        raise click.UsageError("--index, --times and --json require --shards")
    if index is not None and shards is not None and index > shards:
        raise click.UsageError(f"--index {index} is out of range: there are {shards} shards")
    if index is not None and as_json:
        raise click.UsageError("--json cannot be combined with --index: it prints all shards")


def _job(planned: Variants, name: str) -> _Chosen:
    from mmbuild.team.ci.jobs import job_named, jobs_of

    job = job_named(jobs_of(planned.planned), name)
    return _Chosen((job.graph,), job.variants)


def _split(
    planned: Variants, count: int, times: Path | None, at_once: int
) -> tuple[ShardPlan, Mapping[str, Action], Mapping[str, float]]:
    from mmbuild.team.ci.durations import read_times, seconds_of
    from mmbuild.team.ci.jobs import union_of
    from mmbuild.team.ci.shards import plan_shards

    actions = union_of([variant.graph for variant in planned.planned]).actions
    seconds = seconds_of(actions.values(), read_times(times) if times is not None else {})
    return plan_shards(planned.planned, seconds, count, at_once), actions, seconds


def _shard(planned: Variants, count: int, index: int, times: Path | None, at_once: int) -> _Chosen:
    from mmbuild.cli.output import print_note

    names = _split(planned, count, times, at_once)[0].shards[index - 1].variants
    print_note(
        f"shard {index} of {count}: {', '.join(names) or 'nothing, there are more shards than variants'}"
    )
    return _Chosen(tuple(variant.graph for variant in planned.planned if variant.name in names), names)


def _print_shards(planned: Variants, count: int, times: Path | None, at_once: int, *, as_json: bool) -> None:
    from mmbuild.team.ci import shards as shard_report

    split = _split(planned, count, times, at_once)
    if as_json:
        click.echo(json.dumps(shard_report.document(*split), indent=1))
    else:
        click.echo(shard_report.text(*split), nl=False)


def _save_times(planned: Variants, store: Store, path: Path) -> None:
    from mmbuild.cli.output import print_note
    from mmbuild.core.graph.durations import measured_seconds
    from mmbuild.core.store.action_cache import load_cache
    from mmbuild.team.ci.durations import write_times
    from mmbuild.team.ci.jobs import union_of

    actions = union_of([variant.graph for variant in planned.planned]).actions
    measured = measured_seconds(actions.values(), load_cache(store))
    write_times(path, measured)
    print_note(f"{path}: times of {len(measured)} of {len(actions)} actions; the others are estimated")


def _files(planned: Variants, chosen: _Chosen) -> set[Path]:
    return {variant.file for variant in planned.planned if variant.name in chosen.variants}


def _require_locked(planned: Variants, chosen: _Chosen, store: Store, request: PlanOptions) -> None:
    """Check that this machine builds what the locks pin, including versions and target."""
    from mmbuild.team.lockfile import apply

    for file in sorted(_files(planned, chosen)):
        apply.plan_locked(file, store, request)


def _plan(graphs: Sequence[RecipeGraph], store: Store, build_dir: Path) -> Plan:
    from mmbuild.api import plan_graphs

    return plan_graphs(graphs, store, build_dir)


def _apply(plan: Plan, applied: ApplyOptions, *, debug: bool) -> tuple[EventStats, Result]:
    """Apply ``plan``, with plain progress lines."""
    from mmbuild.api import run
    from mmbuild.cli.output import print_failures, print_note, print_status, report_failed
    from mmbuild.cli.verbosity import is_quiet
    from mmbuild.core.execution.events import nowhere
    from mmbuild.core.execution.progress import display
    from mmbuild.team.ci.summary import EventStats

    tally = EventStats()
    if is_quiet():
        result = run(plan, applied, sink=tally.watching(nowhere))
    else:
        with display(plan, live=False) as sink:
            result = run(plan, applied, sink=tally.watching(sink))
    for failed in result.failed:
        print_status()
        report_failed(failed, debug=debug)
    if not result.ok:
        print_failures(len(result.failed), len(result.ran))
        return tally, result
    print_note(f"done in {result.seconds:.1f} s: {len(result.ran)} ran, {len(result.reused)} reused")
    for build in plan.builds:
        click.echo(str(build.directory))
    return tally, result
