"""Folds lines and tables to the width of a terminal, between words. A terminal itself would break inside them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import groupby

_GAP = "  "
_GLUE = "\x00"
"""In place of spaces at which no line may end."""
_WHOLE = re.compile(r"`[^`\n]*`|\b[0-9.,]+ (?:s|min|h|B|kB|MB|GB|TB)\b")
"""What is kept on one line: commands and names in backticks, which may be copied, and numbers with their units."""
_SHORT = 24
"""Longest cell of a paragraph that is kept on one line."""
_NARROWEST = 20
"""Narrowest last column; below that, a table becomes a list."""


def fold(line: str, width: int | None, indent: str = "  ") -> str:
    """Return ``line`` in lines of at most ``width`` characters, the further ones after ``indent``.

    A word that is longer stays whole, and so does text in backticks. None means any width.
    """
    if width is None or len(line) <= width:
        return line.replace(_GLUE, " ")
    leading = line[: len(line) - len(line.lstrip())]
    folded = textwrap.fill(
        _WHOLE.sub(lambda match: glued(match[0]), line.strip()),
        max(width, len(indent) + 1),
        initial_indent=leading,
        subsequent_indent=leading + indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return folded.replace(_GLUE, " ")


def glued(text: str) -> str:
    """``text`` with spaces at which :func:`fold` breaks no line, and which it replaces by usual ones."""
    return text.replace(" ", _GLUE)


def fold_all(text: str, width: int | None, indent: str = "  ") -> str:
    """:func:`fold` for each line of ``text``."""
    return "\n".join(fold(line, width, indent) for line in text.split("\n"))


def table(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Return the lines of a table; the first row holds its titles.

    If it is wider than ``width``, its last column is folded; if there is no room for that either, each row becomes a
    paragraph: its first cell, then the others after their titles.
    """
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    before = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    if width is None or before + widths[-1] <= width:
        return [_line(row, widths) for row in rows]
    if width - before >= _NARROWEST:
        return [line for row in rows for line in _with_folded_end(row, widths, width, before)]
    return [line for row in rows[1:] for line in _paragraph(rows[0], row, width)]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()


def _with_folded_end(row: Sequence[str], widths: Sequence[int], width: int, before: int) -> list[str]:
    first, *more = fold(row[-1], width - before, "").split("\n")
    return [_line([*row[:-1], first], widths), *(f"{' ' * before}{line}" for line in more)]


def _paragraph(titles: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    cells = [f"{title} {cell}".strip() for title, cell in zip(titles[1:], row[1:], strict=True) if cell]
    whole = min(_SHORT, width - 3)
    text = ", ".join(glued(cell) if len(cell) <= whole else cell for cell in cells)
    return [*fold(row[0], width).split("\n"), *fold(f"  {text}", width, "").replace(_GLUE, " ").split("\n")]


def blocks(rows: Sequence[Sequence[str]], width: int | None = None) -> list[list[Sequence[str]]]:
    """Split a table by columns into tables that fit into ``width``; each begins with the first column.

    A column that does not fit next to the first one is alone with it.
    """
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    groups: list[list[int]] = [[]]
    for at in range(1, len(widths)):
        used = widths[0] + sum(len(_GAP) + widths[other] for other in (*groups[-1], at))
        if width is not None and used > width and groups[-1]:
            groups.append([])
        groups[-1].append(at)
    return [[[row[0], *(row[at] for at in group)] for row in rows] for group in groups]


def fold_markdown(text: str, width: int | None) -> str:
    """Fold Markdown for reading in a terminal; None means any width, and leaves it unchanged.

    A table with a wider line becomes a list, with one paragraph for each row (:func:`table`).
    """
    if width is None:
        return text
    lines: list[str] = []
    for is_table, group in groupby(text.split("\n"), lambda line: line.startswith("|")):
        block = list(group)
        if is_table and len(block) > 2 and max(map(len, block)) > width:
            rows = [_markdown_cells(line) for line in (block[0], *block[2:])]
            lines += [line for row in rows[1:] for line in _paragraph(rows[0], row, width)]
        else:
            lines += block if is_table else [fold(line, width) for line in block]
    return "\n".join(lines)


def _markdown_cells(row: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", row.strip().strip("|"))
    return [cell.strip().replace("<br>", ", ").replace("\\|", "|") for cell in cells]
