"""How much a command prints: ``-q``, nothing, or ``-v``."""

from __future__ import annotations

from enum import StrEnum

import click

from mmbuild.base.status_line import hidden

_KEY = "mmbuild.cli.verbosity"
"""Key in ``click.Context.meta``, which a command shares with the groups above it."""


class Verbosity(StrEnum):
    """How much to print.

    ``QUIET``: results and errors, without progress and notes. ``VERBOSE``: also what people look for when something
    is odd.
    """

    QUIET = "--quiet"
    NORMAL = ""
    VERBOSE = "--verbose"


def set_verbosity(ctx: click.Context, chosen: Verbosity) -> None:
    """Remember the verbosity of the command of ``ctx``.

    Raises:
        click.UsageError: The opposite was given too.
    """
    known = ctx.meta.setdefault(_KEY, chosen)
    if known != chosen:
        raise click.UsageError("--quiet and --verbose cannot be combined", ctx)
    if chosen is Verbosity.QUIET:
        ctx.with_resource(hidden())


def verbosity() -> Verbosity:
    """The verbosity of the command that is running."""
    context = click.get_current_context(silent=True)
    return Verbosity.NORMAL if context is None else context.meta.get(_KEY, Verbosity.NORMAL)


def is_quiet() -> bool:
    """Whether only results and errors are printed."""
    return verbosity() is Verbosity.QUIET


def is_verbose() -> bool:
    """Whether more is printed than usual."""
    return verbosity() is Verbosity.VERBOSE
