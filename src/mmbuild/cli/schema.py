"""``mmbuild schema``: the JSON Schema of recipes."""

from __future__ import annotations

import click

from mmbuild.cli import commands


@commands.command("schema")
def command() -> None:
    """Print the JSON Schema of recipes.

    Editors with a YAML language server use it to complete and check recipes that refer to it in their first line.

    \b
    Example:
      mmbuild schema > recipes/schema.json
      # yaml-language-server: $schema=schema.json
    """
    from mmbuild.schema.json_schema import render

    click.echo(render(), nl=False)
