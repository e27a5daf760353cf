"""``mmbuild graph``: draw the action graph of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.pipeline.options import PlanOptions


@commands.command("graph")
@options.recipes
@options.location_options
@options.locked_option
@click.option(
    "--format",
    "layout",
    type=click.Choice(["mermaid", "dot", "svg"]),
    default="mermaid",
    show_default=True,
    help="Output format; svg needs Graphviz.",
)
def command(
    *,
    request: PlanOptions,
    store: Path | None,
    build_dir: Path,
    layout: str,
) -> None:
    """Draw the action graph of recipes, coloured by what apply would do.

    \b
    Example:
      mmbuild graph recipes/demo/llava-int4.yaml --format svg > graph.svg
    """
    from mmbuild.cli.plan_request import plan_request
    from mmbuild.core.graph.plan_text import FORMATS

    planning = plan_request(request, store, build_dir)
    click.echo(FORMATS[layout](planning.plan), nl=False)
