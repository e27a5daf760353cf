"""``mmbuild schema``: JSON Schema of recipes."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of recipes.

    Editors with a YAML language server complete and check recipes by it; a recipe names it in its first line.

    \b
    Example:
      mmbuild schema > recipes/schema.json
      # yaml-language-server: $schema=schema.json
    """
    from mmbuild.schema.json_schema import render

    click.echo(render(), nl=False)
