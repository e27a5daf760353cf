"""``mmbuild explain``: what a code means and what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from mmbuild.cli import commands, options

_WIDEST = 100
"""Columns of text that are easily read."""


@commands.command("explain")
@click.argument("code", required=False, metavar="[CODE]")
@options.json_option("the entry, or an array of all")
def command(code: str | None, as_json: bool) -> None:
    """Explain what a code such as MM103 means and how to fix it; without a code, list all codes.

    \b
    Example:
      mmbuild explain MM103
      mmbuild explain
    """
    from mmbuild.base.codes import codes, lookup, nearest
    from mmbuild.base.folding import fold
    from mmbuild.cli.tables import terminal_width

    if code is None and as_json:
        click.echo(json.dumps([asdict(listed) for listed in codes().values()], indent=1))
        return
    if code is None:
        for listed in codes().values():
            click.echo(f"{listed.code}  {listed.title}")
        return
    entry = lookup(code)
    if entry is None:
        from mmbuild.base.errors import UsageError

        match = nearest(code)
        hint = f"did you mean `mmbuild explain {match}`?" if match else "`mmbuild explain` lists all codes"
        raise UsageError(f"no code `{code}`", code="MM190", hint=hint)
    if as_json:
        click.echo(json.dumps(asdict(entry), indent=1))
        return
    width = min(_WIDEST, terminal_width() or _WIDEST)
    click.echo(fold(f"{entry.code}: {entry.title}", width))
    click.echo()
    for name in ("symptom", "cause", "cure"):
        click.echo(fold(f"{name}: {getattr(entry, name)}", width))
