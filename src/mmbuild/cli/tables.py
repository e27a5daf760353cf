"""Tables and lines on standard output, folded to the width of a terminal; files and pipes get whole lines."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click

from mmbuild.base.folding import fold_all, table


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None if it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table; the first one holds its titles."""
    for line in table(rows, terminal_width()):
        click.echo(line)


def print_untitled(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table without titles."""
    if rows:
        for line in table([[""] * len(rows[0]), *rows], terminal_width()):
            if line:
                click.echo(line)


def print_folded(text: str) -> None:
    """Print lines, folded between words."""
    click.echo(fold_all(text, terminal_width()))
