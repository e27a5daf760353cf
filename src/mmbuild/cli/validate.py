"""``mmbuild validate``: check recipes without building anything."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mmbuild.base.terminal_text import one_line
from mmbuild.cli import commands, options
from mmbuild.cli.output import print_findings, print_note, print_status

if TYPE_CHECKING:
    from mmbuild.base.diagnostics import Diagnostic
    from mmbuild.pipeline.load import LoadResult
    from mmbuild.pipeline.options import PlanOptions


@commands.command("validate")
@options.recipes
@commands.option(
    "--format",
    "layout",
    type=click.Choice(["text", "github"]),
    default="text",
    show_default=True,
    help="Output format of findings; github prints workflow annotations.",
    moved={"json": "as_json"},
)
@options.json_option("the findings")
def command(request: PlanOptions, layout: str, as_json: bool) -> None:
    """Check recipes without building anything.

    Prints one line per valid recipe (or variant of a matrix), and every finding with its file, line and
    column. Exit status 0 without errors, 1 with errors, 2 for wrong usage.

    \b
    Example:
      mmbuild validate recipes/llava-int4.yaml
      mmbuild validate recipes/*.yaml --set engine.backend=torch --format github
    """
    from mmbuild.pipeline.complete_models import with_missing_files
    from mmbuild.pipeline.load import load
    from mmbuild.pipeline.recipe_files import with_files

    if as_json and layout == "github":
        raise click.UsageError("--json and --format github both write to standard output; use one of them")
    result = with_missing_files(load(with_files(request)))
    result = replace(result, diagnostics=(*result.diagnostics, *_store_findings()))
    _print_findings(result, "json" if as_json else layout)
    if any(item.severity == "error" for item in result.diagnostics):
        sys.exit(1)


def _store_findings() -> tuple[Diagnostic, ...]:
    """A warning if an apply could not create its store, which is better known now than after hours of work."""
    from mmbuild.base.diagnostics import Diagnostic
    from mmbuild.core.store.layout import default_problem

    problem = default_problem()
    if problem is None:
        return ()
    return (Diagnostic(problem.code, problem.message, "warning", hint=problem.hint),)


def _print_findings(result: LoadResult, layout: str) -> None:
    from mmbuild.base import diagnostics

    if layout == "json":
        click.echo(diagnostics.render_json(result.diagnostics))
        return
    for variant in result.variants:
        if layout == "text":
            click.echo(f"ok {variant.name} {one_line(str(variant.path))}")
    if layout == "github" and result.diagnostics:
        click.echo(diagnostics.render_github(result.diagnostics))
    if layout == "text" and result.diagnostics:
        print_findings(result.diagnostics)
        print_status()
        print_note(_summary(result.diagnostics))


def _summary(diagnostics: tuple[Diagnostic, ...]) -> str:
    errors = sum(item.severity == "error" for item in diagnostics)
    warnings = len(diagnostics) - errors
    counts = [
        f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((errors, "error"), (warnings, "warning")) if n
    ]
    return f"{', '.join(counts)}; `mmbuild explain {diagnostics[0].code}` says more"
