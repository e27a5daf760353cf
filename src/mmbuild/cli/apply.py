"""``mmbuild apply``: build what is missing and lay out the engines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import github, options

if TYPE_CHECKING:
    from mmbuild.cli.planning import Planning
    from mmbuild.core.execution.events import Event, Result
    from mmbuild.team.ci.summary import EventStats

_TIMES_SHOWN = 40
"""More lines than this fill a screen and say nothing."""


@click.command("apply")
@options.recipes
@options.location_options
@options.locked_option
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Actions at once (default: one for each core)."
)
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, run what does not depend on it.")
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@click.option("--no-progress", is_flag=True, help="No live display, also on a terminal.")
@click.option("--ignore-estimates", is_flag=True, help="Start even if memory or disk look too small.")
@click.option(
    "--paranoid", is_flag=True, help="Read every file of the store before it is used, whatever its times say."
)
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where actions run: this machine, or the nodes of a Ray cluster (docs/cluster.md).",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Of the cluster, or `auto` (default: $RAY_ADDRESS, else a Ray of this machine for this run).",
)
@github.annotate_errors
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
    jobs: int | None,
    keep_going: bool,
    as_json: bool,
    no_progress: bool,
    ignore_estimates: bool,
    paranoid: bool,
    executor: str,
    address: str | None,
    layout: str,
) -> None:
    """Build what is missing and lay out the engines as build/<recipe>/.

    RECIPE may be one saved plan instead (`mmbuild plan -o FILE`); it is refused with exit status 4 when
    something has changed since.

    \b
    Example:
      mmbuild apply recipes/demo/llava-int4.yaml
      mmbuild apply recipes/*.yaml --set engine.quantization=int8 --keep-going
    """
    from mmbuild.cli.planning import plan_request
    from mmbuild.core.graph.plan_file import looks_saved

    if as_json and layout == "github":
        raise click.UsageError("--json and --format github both want standard output")
    if address is not None and executor != "ray":
        raise click.UsageError("--address is for --executor ray")
    if len(recipes) == 1 and looks_saved(recipes[0]):
        planning = _from_saved(recipes[0], overrides)
    else:
        planning = plan_request(
            recipes,
            overrides,
            offline=offline,
            allow_outside=allow_outside,
            store=store,
            build_dir=build_dir,
            locked=locked,
        )
    if not planning.plan.changes and not as_json:
        _print_up_to_date(planning)
        if layout == "github":
            github.report(planning.plan)
        return
    from mmbuild.team.ci.summary import EventStats

    debug = bool(context.obj and context.obj.get("debug"))
    how = {
        "jobs": jobs,
        "keep_going": keep_going,
        "ignore_estimates": ignore_estimates,
        "paranoid": paranoid,
        "executor": executor,
        "address": address,
    }
    tally = EventStats()
    result = _run(planning, how, tally, as_json=as_json, live=not no_progress and layout == "text")
    _report(planning, result, debug=debug, quiet=as_json)
    if layout == "github":
        github.report(planning.plan, tally, result, map(Path, planning.request["recipes"]))
    if not result.ok:
        sys.exit(1)


def _from_saved(path: Path, overrides: tuple[str, ...]) -> Planning:
    from mmbuild.cli.planning import plan_again
    from mmbuild.core.graph.plan_file import check_fresh, read_saved, require_recipes

    if overrides:
        raise click.UsageError("--set cannot change a saved plan")
    saved = read_saved(path)
    require_recipes(path, saved)
    planning = plan_again(saved["request"])
    check_fresh(path, saved, planning.plan)
    return planning


def _run(
    planning: Planning, how: Mapping[str, Any], tally: EventStats, *, as_json: bool, live: bool
) -> Result:
    """``how``: arguments of :func:`mmbuild.api.run`."""
    from mmbuild.api import run
    from mmbuild.core.execution.progress import display

    if as_json:
        outlet = _Outlet()
        result = run(planning.plan, sink=outlet, **how)
        outlet.raise_failure()
        return result
    with display(planning.plan, live=live) as sink:
        return run(planning.plan, sink=tally.watching(sink), **how)


class _Outlet:
    """Events on standard output; once that is closed or full, the build goes on without it."""

    def __init__(self) -> None:
        self._failure: OSError | None = None

    def __call__(self, event: Event) -> None:
        if self._failure is not None:
            return
        try:
            print(json.dumps(event.as_json()), flush=True)
        except OSError as error:
            self._failure = error

    def raise_failure(self) -> None:
        """Raise what ended the output, now that the build is done.

        Raises:
            OSError: Standard output was closed or full.
        """
        if self._failure is not None:
            raise self._failure


def _report(planning: Planning, result: Result, *, debug: bool, quiet: bool) -> None:
    """Failures in any case; the end in words unless the events on standard output tell it."""
    from mmbuild.cli.output import print_status, report_failed

    for failed in result.failed:
        if not quiet:
            print_status()
        report_failed(failed, debug=debug)
    if quiet:
        return
    if not result.ok:
        print_status(f"{len(result.failed)} failed, {len(result.ran)} ran; finished actions are kept")
        return
    print_status(f"done in {result.seconds:.1f} s: {len(result.ran)} ran, {len(result.reused)} reused")
    for line in _times(result):
        print_status(line)
    for build in planning.plan.builds:
        click.echo(_shown(build.directory))


def _times(result: Result) -> list[str]:
    """A line for each action that ran, in the order of their ends; of very many the longest."""
    shown = list(result.times)
    if len(shown) > _TIMES_SHOWN:
        shown = sorted(shown, key=lambda item: -item[1])[:_TIMES_SHOWN]
    width = max((len(label) for label, _ in shown), default=0)
    lines = [f"  {label:<{width}}  {seconds:8.1f} s" for label, seconds in shown]
    more = len(result.times) - len(shown)
    return [*lines, f"  and {more} shorter ones"] if more else lines


def _print_up_to_date(planning: Planning) -> None:
    from mmbuild.cli.output import print_status
    from mmbuild.core.graph.plan_text import summary

    print_status(summary(planning.plan))
    click.echo("\n".join(_shown(build.directory) for build in planning.plan.builds))


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
