"""``mmbuild ci diff``: what a change to recipes rebuilds and how long it takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.pipeline.options import PlanOptions

_CHANGES = 3


@commands.command("diff")
@click.argument("states", nargs=-1, required=True, metavar="REV..REV | TREE TREE")
@click.option(
    "--recipes",
    multiple=True,
    type=click.Path(path_type=Path),
    default=(Path("recipes"),),
    show_default="recipes",
    help="Recipe files, or directories that directly contain recipes.",
)
@options.planning(*options.PLAN_OPTIONS)
@options.store
@options.json_option("the changes, with every action")
@commands.option(
    "--format",
    "layout",
    type=click.Choice(["markdown"]),
    default="markdown",
    hidden=True,
    moved={"json": "as_json"},
    expose_value=False,
)
@options.exit_code_option("Exit with 3 if there is something to build.")
def command(
    *,
    states: tuple[str, ...],
    request: PlanOptions,
    store: Path | None,
    as_json: bool,
    exit_code: bool,
) -> None:
    """Show what a change to recipes rebuilds: which variants, because of which line or version, and which actions.

    Compares a revision with the working tree (REV), two revisions (REV..REV), the merge base of two revisions with
    the second (REV...REV), or two directories. This mmbuild plans both sides for this host; nothing is built.

    \b
    Example:
      mmbuild ci diff origin/main
      mmbuild ci diff v1.0..v1.1 --recipes recipes --recipes recipes/demo
      mmbuild ci diff origin/main --exit-code > comment.md
    """
    from mmbuild.base.folding import fold_markdown
    from mmbuild.cli.tables import terminal_width
    from mmbuild.core.graph.durations import measured_seconds
    from mmbuild.core.store.action_cache import load_cache
    from mmbuild.core.store.layout import open_store
    from mmbuild.team.ci import pr_comment
    from mmbuild.team.ci.change_cost import differences
    from mmbuild.team.ci.durations import seconds_of
    from mmbuild.team.ci.revisions import snapshots

    opened = open_store(store)
    with snapshots(states, opened, request) as (before, after):
        changes = differences(before, after, opened, request)
    actions = [
        *changes.build,
        *changes.keep,
        *(action for variant in changes.variants for action in variant.build),
    ]
    seconds = seconds_of(actions, measured_seconds(actions, load_cache(opened)))
    if as_json:
        click.echo(json.dumps(pr_comment.document(changes, seconds), indent=1))
    else:
        click.echo(fold_markdown(pr_comment.markdown(changes, seconds), terminal_width()), nl=False)
    if exit_code and changes.build:
        sys.exit(_CHANGES)
