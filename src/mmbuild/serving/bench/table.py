"""Shows rows of results on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmbuild.base.folding import table
from mmbuild.base.terminal_text import clean, one_line, raw
from mmbuild.serving.bench.rows import BETWEEN, COLUMNS, PERCENTILE_TITLE, PERCENTILES_FROM, Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_UNIT = ", ms"
"""Ends the titles of columns with percentiles."""
_WIDTH = 500
"""Characters of a line where there is no terminal: no table is that wide, so nothing is folded."""


def print_table(rows: Sequence[Row], *, named: bool = False) -> None:
    """Print a table to standard output; on a narrow terminal, with percentiles below each other.

    If that is too wide as well, each run is a paragraph.

    Args:
        rows: The rows.
        named: Whether the first column shows the name of each row's result.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(
        highlight=False,
        file=raw(sys.stdout),
        width=None if terminal else _WIDTH,
        color_system=None if os.environ.get("NO_COLOR") or not terminal else "auto",
    )
    wide = _wide(rows, named, terminal)
    unlimited = console.options.update(width=_WIDTH)
    narrow = _narrow(rows, named)
    if console.measure(wide, options=unlimited).maximum <= console.width:
        console.print(wide)
    elif console.measure(narrow, options=unlimited).minimum <= console.width:
        console.print(narrow)
    else:
        _print_paragraphs(rows, named, console)


def _wide(rows: Sequence[Row], named: bool, terminal: bool) -> Table:
    titles = [*(["result"] if named else []), *COLUMNS[:PERCENTILES_FROM]]
    titles += [f"{title}\n{PERCENTILE_TITLE}" for title in COLUMNS[PERCENTILES_FROM:]]
    lines = [[*([one_line(row.result)] if named else []), *row.cells] for row in rows]
    return _table(titles, lines, left=1 + named, ruled=terminal)


def _narrow(rows: Sequence[Row], named: bool) -> Table:
    """For terminals from 80 columns: three lines per run, with the percentiles and the result's name in them."""
    words = [title.replace(" ", "\n") for title in COLUMNS]
    percentiles = PERCENTILE_TITLE.replace(BETWEEN, "\n")
    titles = [*words[:PERCENTILES_FROM], *(f"{title}\n{percentiles}" for title in words[PERCENTILES_FROM:])]
    lines = [
        [f"{row.cells[0]}\n{one_line(row.result)}" if named else row.cells[0]]
        + [cell.replace(BETWEEN, "\n") for cell in row.cells[1:]]
        for row in rows
    ]
    return _table(titles, lines, left=1, ruled=True)


def _print_paragraphs(rows: Sequence[Row], named: bool, console: Console) -> None:
    """For narrower terminals: each run is a paragraph."""
    percentiles = [f"{title.removesuffix(_UNIT)} {PERCENTILE_TITLE}" for title in COLUMNS[PERCENTILES_FROM:]]
    names = [f"{one_line(row.result)}, {row.cells[0]}" if named else row.cells[0] for row in rows]
    lines = [
        [clean(cell) for cell in (name, *row.cells[1:PERCENTILES_FROM])]
        + [f"{cell} ms" for cell in row.cells[PERCENTILES_FROM:]]
        for name, row in zip(names, rows, strict=True)
    ]
    for line in table([[*COLUMNS[:PERCENTILES_FROM], *percentiles], *lines], console.width):
        print(line, file=console.file)


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]], *, left: int, ruled: bool) -> Table:
    """A table whose first ``left`` columns are aligned to the left, and may be folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        box=box.SIMPLE_HEAD if ruled else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if ruled else 2, 0, 0),
    )
    for number, title in enumerate(titles):
        words = number < left
        shown.add_column(title, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for cells in lines:
        shown.add_row(*(Text(clean(cell)) for cell in cells))
    return shown
