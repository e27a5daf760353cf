"""``mmbuild ci``: recipes in a CI service."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import click

from mmbuild.cli import commands

SUBCOMMANDS: Mapping[str, str] = {
    "plan": "List the jobs that build recipes and what each needs",
    "run": "Run one job of a plan, or one of several shards",
    "diff": "Show what a change to recipes rebuilds and how long it takes",
}
"""Name -> its line of ``--help``. Module ``mmbuild.cli.ci_<name>`` defines ``command``."""


def subcommand(name: str) -> click.Command:
    """The command ``mmbuild ci <name>``."""
    command: click.Command = importlib.import_module(f"mmbuild.cli.ci_{name}").command
    return command


class _Subcommands(commands.Group):
    """Imports only the module of the command that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return subcommand(cmd_name) if cmd_name in SUBCOMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # Until `plan` and `diff` were added, `mmbuild ci RECIPE...` was `mmbuild ci run RECIPE...`.
        if args and args[0] not in SUBCOMMANDS and Path(args[0]).exists():
            from mmbuild.cli.output import print_note

            print_note("note: `mmbuild ci RECIPE...` is now `mmbuild ci run RECIPE...`")
            args = ["run", *args]
        return super().resolve_command(ctx, args)


@click.command("ci", cls=_Subcommands)
def command() -> None:
    """Build recipes in a CI service: jobs that run each action once, or shards, and what a change costs.

    \b
    Example:
      mmbuild ci plan recipes
      mmbuild ci run recipes --job llava-1.5-7b-int4
      mmbuild ci diff origin/main
    """
