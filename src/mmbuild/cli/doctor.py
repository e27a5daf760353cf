"""``mmbuild doctor``: check this host and its environments against the requirements of builds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.inspect.doctor.recipe_requirements import Needs
    from mmbuild.pipeline.options import PlanOptions

_MISSING_PACKAGE = frozenset({"MM230", "MM462"})


@commands.command("doctor")
@click.argument("recipes", nargs=-1, type=click.Path(path_type=Path), metavar="[RECIPE...]")
@options.planning("overrides", "offline")
@click.option("--quick", is_flag=True, help="Skip the test compile, which takes 10 to 20 seconds.")
@options.json_option()
@options.location_options
def command(
    *,
    request: PlanOptions,
    quick: bool,
    as_json: bool,
    store: Path | None,
    build_dir: Path,
) -> None:
    """Check this host and its toolchain environments, and say how to fix what is missing.

    Without recipes, checks the host and everything in `mmbuild config`; with recipes, what they need. Changes and
    downloads nothing. Exit status 1 if a build would fail.

    \b
    Example:
      mmbuild doctor --quick
      mmbuild doctor recipes/llava-int4.yaml --json
    """
    from mmbuild.base.checks import failed_checks
    from mmbuild.base.status_line import working
    from mmbuild.config.load import load
    from mmbuild.core.store.layout import default_root
    from mmbuild.inspect.doctor import render
    from mmbuild.inspect.doctor.report import report

    config = load()
    root = store.expanduser().resolve() if store is not None else default_root()
    needed = _needs(request, root, build_dir) if request.paths else None
    with working("checking this host"):
        groups = report(config, store=root, build_dir=build_dir, needed=needed, quick=quick)
    if as_json:
        click.echo(render.as_json(groups))
    elif sys.stdout.isatty():
        render.print_table(groups)
    else:
        click.echo(render.text(groups), nl=False)
    if any(failed_checks(group.checks) for group in groups):
        sys.exit(1)


def _needs(request: PlanOptions, store: Path, build_dir: Path) -> Needs:
    from mmbuild.api import plan_graphs
    from mmbuild.base import host
    from mmbuild.base.errors import MmbuildError
    from mmbuild.base.status_line import working
    from mmbuild.cli.output import print_findings
    from mmbuild.core.graph.plan import Verdict
    from mmbuild.core.store.layout import open_store
    from mmbuild.inspect.doctor.recipe_requirements import needs
    from mmbuild.pipeline.load import load_valid
    from mmbuild.pipeline.planning import lower_all
    from mmbuild.pipeline.recipe_files import with_files

    loaded = load_valid(with_files(request))
    if loaded.diagnostics:
        print_findings(loaded.diagnostics)
    opened = open_store(store)
    try:
        with working("planning"):
            plan = plan_graphs(lower_all(loaded.variants, opened, offline=request.offline), opened, build_dir)
    except MmbuildError as error:
        if error.code not in _MISSING_PACKAGE:
            raise
        todo = []  # memory and disk are not known; the check of the package's extra fails
    else:
        todo = [item.action for item in plan.actions if item.verdict in (Verdict.RUN, Verdict.UNKNOWN)]
    return needs(loaded.variants, todo, host.default_target()["device"])
