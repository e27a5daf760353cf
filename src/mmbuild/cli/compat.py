"""``mmbuild compat``: which hosts can load a built engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mmbuild.cli import options


@click.command("compat")
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--check", is_flag=True, help="Exit with 1 if this host cannot load the engine.")
@click.option("--no-check", is_flag=True, help="Skip comparing the engine's files with its manifest.json.")
def command(*, build: Path, as_json: bool, check: bool, no_check: bool) -> None:
    """Show what a host needs to load a built engine, and whether this host has it.

    Reads only metadata: no GPU is needed, and nothing is loaded.

    \b
    Example:
      mmbuild compat build/llava-1.5-7b-int4
      mmbuild compat build/llava-1.5-7b-int4 --check && mmbuild run build/llava-1.5-7b-int4 --image a.png
    """
    from mmbuild.backends.table import backend
    from mmbuild.base.checks import Group, failed_checks
    from mmbuild.inspect.doctor import render

    description = options.checked_engine(build, check=not no_check, runs=False)
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
    if check and not fits:
        sys.exit(1)
