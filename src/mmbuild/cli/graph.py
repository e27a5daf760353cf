"""``mmbuild graph``: draw the action graph of recipes."""

from __future__ import annotations

from pathlib import Path

import click

from mmbuild.cli import options


@click.command("graph")
@options.recipes
@options.location_options
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
    recipes: tuple[Path, ...],
    overrides: tuple[str, ...],
    offline: bool,
    allow_outside: bool | None,
    store: Path | None,
    build_dir: Path,
    layout: str,
) -> None:
    """Draw the action graph of recipes, coloured by what apply would do.

    \b
    Example:
      mmbuild graph recipes/demo/llava-int4.yaml --format svg > graph.svg
    """
    from mmbuild.cli.planning import plan_request
    from mmbuild.core.graph.plan_text import FORMATS

    planning = plan_request(
        recipes, overrides, offline=offline, allow_outside=allow_outside, store=store, build_dir=build_dir
    )
    click.echo(FORMATS[layout](planning.plan), nl=False)
