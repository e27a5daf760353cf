"""``mmbuild compat``: which hosts can load a built engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mmbuild.cli import commands, options
from mmbuild.cli.builds import build_arguments
from mmbuild.cli.output import print_note


@commands.command("compat")
@build_arguments("build")
@options.json_option()
@options.exit_code_option("Exit with 1 if this host cannot load the engine.")
@options.check_option
@click.pass_context
def command(context: click.Context, *, build: Path, as_json: bool, exit_code: bool, check: bool) -> None:
    """Show what a host needs to load a built engine, and whether this host has it.

    Reads only metadata: no GPU is needed, and nothing is loaded.

    \b
    Example:
      mmbuild compat build/llava-1.5-7b-int4
      mmbuild compat build/llava-1.5-7b-int4 --exit-code && mmbuild run build/llava-1.5-7b-int4 --image a.png
    """
    from mmbuild.backends.table import backend
    from mmbuild.base.checks import Group, failed_checks
    from mmbuild.inspect.doctor import render

    description = options.checked_engine(build, check=check, runs=False)
    checks = tuple(backend(description.backend).compatibility(build, description))
    fits = not failed_checks(checks)
    title = f"{build}: {description.family}, backend {description.backend}"
    if as_json:
        document = {
            "version": 1,
            "build": str(build),
            "family": description.family,
            "backend": description.backend,
            "fits": fits,
            "checks": [item.document() for item in checks],
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        render.print_table([Group(title, checks)], expected="needs", found="here")
    else:
        click.echo(render.text([Group(title, checks)], expected="needs", found="here"), nl=False)
    if (exit_code or _asked_by_check(context, check)) and not fits:
        sys.exit(1)


def _asked_by_check(context: click.Context, check: bool) -> bool:
    """Whether ``--check`` was given: until ``--exit-code`` was added, that was its meaning here."""
    if not check or context.get_parameter_source("check") is not click.core.ParameterSource.COMMANDLINE:
        return False
    print_note("note: `--check` is now `--exit-code`")
    return True
