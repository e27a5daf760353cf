"""``mmbuild ci plan``: CI jobs that build recipes and run each action once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.core.store.layout import Store
    from mmbuild.pipeline.options import PlanOptions
    from mmbuild.team.ci.variants import Variants

_FORMATS = ("text", "github", "gitlab")


@commands.command("plan")
@options.recipes
@options.locked_option
@options.store
@click.option("--changed-since", metavar="REV", help="Only variants that changed since a git revision.")
@commands.option(
    "--format",
    "layout",
    type=click.Choice(_FORMATS),
    default="text",
    show_default=True,
    help="Output format of jobs; github prints outputs of a workflow, gitlab a child pipeline.",
    moved={"json": "as_json"},
)
@options.json_option("the jobs, with every action")
@click.option(
    "--runner",
    "runners",
    multiple=True,
    metavar="KIND=LABELS",
    help="Runner labels (tags) for jobs of KIND cpu or gpu; {gpus}, {sm} and {memory_gib} are filled in.",
)
@click.option("--include", metavar="FILE", help="For gitlab: file that defines the hidden job `.mmbuild`.")
def command(
    *,
    request: PlanOptions,
    store: Path | None,
    changed_since: str | None,
    layout: str,
    as_json: bool,
    runners: tuple[str, ...],
    include: str | None,
) -> None:
    """Split recipes into CI jobs: actions that several variants share run in common jobs, each variant in its own.

    RECIPE may be a directory, meaning the YAML files directly in it. Run a job with `mmbuild ci run RECIPE... --job
    NAME`, with the same recipes and the same --set. Jobs pull the results of other jobs from the shared store.

    \b
    Example:
      mmbuild ci plan recipes
      mmbuild ci plan recipes --changed-since origin/main --format github >> "$GITHUB_OUTPUT"
      mmbuild ci plan recipes --format gitlab --include ci/mmbuild.yml > jobs.yml
    """
    from mmbuild.cli.tables import print_table
    from mmbuild.core.graph.durations import measured_seconds
    from mmbuild.core.store.action_cache import load_cache
    from mmbuild.core.store.layout import open_store
    from mmbuild.team.ci import services as github
    from mmbuild.team.ci import services as gitlab
    from mmbuild.team.ci import services as job_rows
    from mmbuild.team.ci.durations import seconds_of
    from mmbuild.team.ci.jobs import jobs_of, select
    from mmbuild.team.ci.runners import GITHUB, GITLAB, parse_runners

    if as_json and layout != "text":
        raise click.UsageError(f"--json and --format {layout} both write to standard output; use one of them")
    labels = parse_runners(runners, GITLAB if layout == "gitlab" else GITHUB)
    opened = open_store(store)
    planned = plan_and_warn(request, opened)
    jobs = jobs_of(planned.planned)
    if changed_since is not None:
        jobs = select(jobs, _changed(changed_since, planned, opened, request))
    actions = [action for job in jobs for action in job.actions]
    rows = job_rows.rows(jobs, seconds_of(actions, measured_seconds(actions, load_cache(opened))), labels)
    if as_json:
        click.echo(json.dumps(job_rows.document(rows), indent=1))
    elif layout == "github":
        click.echo(github.outputs(rows), nl=False)
    elif layout == "gitlab":
        click.echo(gitlab.pipeline(rows, _arguments(request), include), nl=False)
    elif not rows:
        click.echo("no jobs")
    else:
        print_table(job_rows.cells(rows))
    if any(job.needs for job in jobs):
        _warn_without_shared_store()


def plan_and_warn(request: PlanOptions, store: Store) -> Variants:
    """Plan the variants of recipe files and directories; warnings go to standard error."""
    from mmbuild.cli.output import print_findings
    from mmbuild.pipeline.recipe_files import with_files
    from mmbuild.team.ci.variants import plan_variants

    planned = plan_variants(with_files(request), store)
    if planned.warnings:
        print_findings(planned.warnings)
    return planned


def _changed(revision: str, planned: Variants, store: Store, request: PlanOptions) -> frozenset[str]:
    from mmbuild.cli.output import print_note
    from mmbuild.team.ci.worktrees import changed_since

    names = changed_since(revision, planned, store, request)
    print_note(f"{len(names)} of {len(planned.planned)} variants changed since {revision}")
    return names


def _arguments(request: PlanOptions) -> list[str]:
    """Arguments with which `mmbuild ci run` makes the same plan."""
    words = [str(path) for path in request.paths]
    for override in request.overrides:
        words += ["--set", override]
    flags = (
        ("--offline", request.offline),
        ("--allow-outside", request.allow_outside),
        ("--locked", request.locked),
    )
    return [*words, *(flag for flag, enabled in flags if enabled)]


def _warn_without_shared_store() -> None:
    from mmbuild.cli.output import print_note
    from mmbuild.config.shared_store_settings import settings

    if settings() is None:
        print_note(
            "no shared store is configured on this machine: without one, every job builds all it needs (docs/ci.md)"
        )
