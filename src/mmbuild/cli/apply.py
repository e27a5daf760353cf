"""``mmbuild apply``: build what is missing and install the engines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.base import status_line
from mmbuild.cli import commands, github, options

if TYPE_CHECKING:
    from mmbuild.cli.plan_request import Planning
    from mmbuild.core.execution.events import Event, Result
    from mmbuild.core.execution.options import ApplyOptions
    from mmbuild.pipeline.options import PlanOptions
    from mmbuild.team.ci.summary import EventStats

_OFFLINE = "HF_HUB_OFFLINE"
_TIMES_SHOWN = 40
"""Longest table of action times; more lines would not fit on a screen."""


def _without_status_line(context: click.Context, _: click.Parameter, given: bool) -> bool:
    """Hide what commands wait for, too: planning is part of an apply."""
    if given:
        context.with_resource(status_line.hidden())
    return given


@commands.command(
    "apply",
    verbose="Also print the store, cached results, and log lines of running actions.",
    resumes=True,
    json_lines=True,
)
@options.recipes
@options.location_options
@options.locked_option
@options.applying()
@click.option("--dry-run", is_flag=True, help="Print what `mmbuild plan` prints, and build nothing.")
@options.json_option("the events, one object per line")
@click.option(
    "--no-progress",
    is_flag=True,
    callback=_without_status_line,
    help="Disable the live display on a terminal.",
)
@github.annotate_errors
@click.pass_context
def command(
    context: click.Context,
    *,
    request: PlanOptions,
    store: Path | None,
    build_dir: Path,
    applied: ApplyOptions,
    dry_run: bool,
    as_json: bool,
    no_progress: bool,
    layout: str,
) -> None:
    """Build what is missing and install the engines as build/<recipe>/.

    RECIPE may also be a saved plan (`mmbuild plan -o FILE`). If anything has changed since it was saved, the
    plan is refused with exit status 4.

    \b
    Example:
      mmbuild apply recipes/demo/llava-int4.yaml
      mmbuild apply recipes/*.yaml --set engine.quantization=int8 --keep-going
    """
    from mmbuild.cli.plan_request import note_replaced, plan_request
    from mmbuild.core.graph.plan_file import looks_saved

    if dry_run and layout == "github":
        raise click.UsageError("--dry-run prints a plan, which has no --format github; omit one of them")
    if as_json and layout == "github":
        raise click.UsageError("--json and --format github both write to standard output; use one of them")
    if len(request.paths) == 1 and looks_saved(request.paths[0]):
        planning = _from_saved(request.paths[0], request.overrides, builds=not dry_run)
    else:
        planning = plan_request(request, store, build_dir, builds=not dry_run)
    if dry_run:
        from mmbuild.cli.plan import print_plan

        print_plan(planning, as_json=as_json)
        return
    if not planning.plan.changes and not as_json:
        _print_up_to_date(planning)
        if layout == "github":
            github.report(planning.plan)
        return
    note_replaced(planning.plan)
    from mmbuild.team.ci.summary import EventStats

    debug = bool(context.obj and context.obj.get("debug"))
    tally = EventStats()
    with _hub(offline=bool(planning.request["offline"])):
        result = _run(planning, applied, tally, as_json=as_json, live=not no_progress and layout == "text")
    _report(planning, result, len(tally.pulled), debug=debug, quiet=as_json)
    if layout == "github":
        github.report(planning.plan, tally, result, map(Path, planning.request["recipes"]))
    if not result.ok:
        sys.exit(1)


@contextmanager
def _hub(*, offline: bool) -> Iterator[None]:
    """Tell the hub's client in the processes of actions not to go online: they take what is cached."""
    known = os.environ.get(_OFFLINE)
    if offline:
        os.environ[_OFFLINE] = "1"
    try:
        yield
    finally:
        if offline and known is None:
            del os.environ[_OFFLINE]
        elif known is not None:
            os.environ[_OFFLINE] = known


def _from_saved(path: Path, overrides: tuple[str, ...], *, builds: bool) -> Planning:
    from mmbuild.cli.plan_request import plan_again
    from mmbuild.core.graph.plan_file import check_fresh, read_saved, require_recipes

    if overrides:
        raise click.UsageError("--set cannot change a saved plan")
    saved = read_saved(path)
    require_recipes(path, saved)
    planning = plan_again(saved["request"], builds=builds)
    check_fresh(path, saved, planning.plan)
    return planning


def _run(
    planning: Planning, applied: ApplyOptions, tally: EventStats, *, as_json: bool, live: bool
) -> Result:
    from mmbuild.api import run
    from mmbuild.cli.apply_details import log_lines, starting_lines
    from mmbuild.cli.output import print_status
    from mmbuild.cli.verbosity import is_quiet, is_verbose
    from mmbuild.core.execution.events import nowhere, thinned
    from mmbuild.core.execution.progress import display

    if as_json:
        printer = _EventPrinter()
        result = run(planning.plan, applied, sink=thinned(printer))
        printer.raise_failure()
        return result
    if is_quiet():
        return run(planning.plan, applied, sink=tally.watching(nowhere))
    with display(planning.plan, live=live and not is_verbose()) as sink:
        if not is_verbose():
            return run(planning.plan, applied, sink=tally.watching(sink))
        for line in starting_lines(planning.plan):
            print_status(line)
        with log_lines(sink) as both:
            return run(planning.plan, applied, sink=tally.watching(both))


class _EventPrinter:
    """Prints events to standard output; if that is closed or full, the build continues without it."""

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
        """Raise the error that ended the output, if any; called after the build.

        Raises:
            OSError: Standard output was closed or full.
        """
        if self._failure is not None:
            raise self._failure


def _report(planning: Planning, result: Result, pulled: int, *, debug: bool, quiet: bool) -> None:
    """Print failures always, and a summary unless the events on standard output already report it."""
    from mmbuild.cli.output import print_failures, print_note, report_failed

    for failed in result.failed:
        if not quiet:
            print_note()
        report_failed(failed, debug=debug)
    if quiet:
        return
    if not result.ok:
        print_failures(len(result.failed), len(result.ran))
        return
    from_others = f", {pulled} pulled" if pulled else ""
    print_note(
        f"done in {result.seconds:.1f} s: {len(result.ran)} ran, {len(result.reused)} reused{from_others}"
    )
    for line in _times(result):
        print_note(line)
    for build in planning.plan.builds:
        click.echo(_shown(build.directory))


def _times(result: Result) -> list[str]:
    """One line per action that ran, in the order they finished; only the longest if there are many."""
    shown = list(result.times)
    if len(shown) > _TIMES_SHOWN:
        shown = sorted(shown, key=lambda item: -item[1])[:_TIMES_SHOWN]
    width = max((len(label) for label, _ in shown), default=0)
    lines = [f"  {label:<{width}}  {seconds:8.1f} s" for label, seconds in shown]
    omitted = len(result.times) - len(shown)
    return [*lines, f"  and {omitted} shorter ones"] if omitted else lines


def _print_up_to_date(planning: Planning) -> None:
    from mmbuild.cli.output import print_note
    from mmbuild.core.execution.rejected_build import discard_outdated
    from mmbuild.core.graph.plan_text import summary

    discard_outdated(planning.plan)
    print_note(summary(planning.plan))
    click.echo("\n".join(_shown(build.directory) for build in planning.plan.builds))


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
