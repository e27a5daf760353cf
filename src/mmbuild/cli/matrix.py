"""``mmbuild matrix``: the jobs of a CI service that build recipes, each action once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import options

if TYPE_CHECKING:
    from mmbuild.core.store.layout import Store
    from mmbuild.team.ci.variants import VariantOptions, Variants

_FORMATS = ("text", "github", "gitlab", "json")


@click.command("matrix")
@options.recipes
@options.locked_option
@options.store
@click.option(
    "--changed-since", metavar="REV", help="Only variants that are not what they were at a revision."
)
@click.option("--format", "layout", type=click.Choice(_FORMATS), default="text", show_default=True)
@click.option(
    "--runner",
    "runners",
    multiple=True,
    metavar="KIND=LABELS",
    help="Labels (tags) of runners for jobs of KIND cpu or gpu; {gpus}, {sm} and {memory_gib} are filled in.",
)
@click.option("--include", metavar="FILE", help="For gitlab: a file with the hidden job `.mmbuild`.")
def command(
    *,
    recipes: tuple[Path, ...],
    overrides: tuple[str, ...],
    offline: bool,
    allow_outside: bool | None,
    locked: bool,
    store: Path | None,
    changed_since: str | None,
    layout: str,
    runners: tuple[str, ...],
    include: str | None,
) -> None:
    """Cut recipes into jobs of a CI service: what several variants need in one job, each variant in one of its own.

    RECIPE may be a directory: it stands for the YAML files right in it. A job is run by `mmbuild ci RECIPE... --job
    NAME`, with the same recipes and the same --set. Jobs take results of others from the shared store.

    \b
    Example:
      mmbuild matrix recipes
      mmbuild matrix recipes --changed-since origin/main --format github >> "$GITHUB_OUTPUT"
      mmbuild matrix recipes --format gitlab --include ci/mmbuild.yml > jobs.yml
    """
    from mmbuild.core.store.action_cache import load_cache
    from mmbuild.core.store.layout import open_store
    from mmbuild.team.ci import services as github
    from mmbuild.team.ci import services as gitlab
    from mmbuild.team.ci import services as job_rows
    from mmbuild.team.ci.durations import measured_seconds, seconds_of
    from mmbuild.team.ci.jobs import jobs_of, select
    from mmbuild.team.ci.runners import GITHUB, GITLAB, parse_runners
    from mmbuild.team.ci.variants import VariantOptions

    labels = parse_runners(runners, GITLAB if layout == "gitlab" else GITHUB)
    opened, requested = open_store(store), VariantOptions(overrides, offline, allow_outside, locked)
    planned = plan_and_warn(recipes, opened, requested)
    jobs = jobs_of(planned.planned)
    if changed_since is not None:
        jobs = select(jobs, _changed(changed_since, recipes, planned, opened, requested))
    actions = [action for job in jobs for action in job.actions]
    found = job_rows.rows(jobs, seconds_of(actions, measured_seconds(actions, load_cache(opened))), labels)
    if layout == "json":
        click.echo(json.dumps(job_rows.document(found), indent=1))
    elif layout == "github":
        click.echo(github.outputs(found), nl=False)
    elif layout == "gitlab":
        click.echo(gitlab.pipeline(found, _arguments(recipes, requested), include), nl=False)
    else:
        click.echo(job_rows.text(found), nl=False)
    if any(job.needs for job in jobs):
        _warn_without_shared_store()


def plan_and_warn(recipes: tuple[Path, ...], store: Store, requested: VariantOptions) -> Variants:
    """Plan what the command line names; warnings go to standard error."""
    from mmbuild.base.diagnostics import render_text
    from mmbuild.cli.output import print_status
    from mmbuild.team.ci.variants import plan_variants, recipe_files

    planned = plan_variants(recipe_files(recipes), store, requested)
    if planned.warnings:
        print_status(render_text(planned.warnings).rstrip())
    return planned


def _changed(
    revision: str, recipes: tuple[Path, ...], planned: Variants, store: Store, requested: VariantOptions
) -> frozenset[str]:
    from mmbuild.cli.output import print_status
    from mmbuild.team.ci.worktrees import changed_since

    names = changed_since(revision, recipes, planned, store, requested)
    print_status(f"{len(names)} of {len(planned.planned)} variants changed since {revision}")
    return names


def _arguments(recipes: tuple[Path, ...], requested: VariantOptions) -> list[str]:
    """What `mmbuild ci` has to be told to plan the same."""
    words = [str(path) for path in recipes]
    for override in requested.overrides:
        words += ["--set", override]
    given = (
        ("--offline", requested.offline),
        ("--allow-outside", requested.allow_outside),
        ("--locked", requested.locked),
    )
    return [*words, *(word for word, required in given if required)]


def _warn_without_shared_store() -> None:
    from mmbuild.cli.output import print_status
    from mmbuild.config.remote_cache import settings

    if settings() is None:
        print_status(
            "no shared store is configured here: without one every job builds what it needs (docs/ci.md)"
        )
