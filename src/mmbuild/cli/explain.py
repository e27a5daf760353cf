"""``mmbuild explain``: what a code means and what to do about it."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.base.codes import Code


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
    click.echo(json.dumps(asdict(entry), indent=1) if as_json else _text(entry))


def _text(code: Code) -> str:
    lines = [f"{code.code}: {code.title}", ""]
    for name in ("symptom", "cause", "cure"):
        text = f"{name}: {getattr(code, name)}"
        lines += [textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)]
    return "\n".join(lines)
