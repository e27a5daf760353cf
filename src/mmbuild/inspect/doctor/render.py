"""Formats checks as text, tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence

from mmbuild.base.checks import Check, Group, failed_checks
from mmbuild.base.terminal_text import clean, raw

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "cyan"}


def text(groups: Sequence[Group], *, expected: str = "required", found: str = "") -> str:
    """Plain text: one line per check, followed by the reason and the fix unless it is ok.

    Args:
        groups: The checks.
        expected: Label of the required value.
        found: Label of the actual value; if set, both values are always shown, the required one first.
    """
    width = max((len(check.name) for group in groups for check in group.checks), default=0)
    blocks = []
    for group in groups:
        lines = (line for check in group.checks for line in _lines(check, width, expected, found))
        blocks.append("\n".join((group.title, *lines)))
    return "\n\n".join(blocks) + "\n"


def _lines(check: Check, width: int, expected: str, found: str) -> Iterator[str]:
    state = f"{expected} {check.required}; {found} {check.found}" if found else _state(check, expected)
    yield f"  {check.status:<7}  {check.name:<{width}}  {state}".rstrip()
    if check.status != "ok":
        indent = " " * (width + 13)
        yield from (f"{indent}{part}" for part in _advice(check))


def _state(check: Check, expected: str) -> str:
    if check.required and check.status != "ok":
        return f"{check.found}; {expected}: {check.required}"
    return f"{check.found} ({check.required})" if check.required else check.found


def _advice(check: Check) -> Iterator[str]:
    if check.why:
        yield f"why: {check.why}"
    if check.hint:
        yield f"hint: {check.hint}"


def print_table(groups: Iterable[Group], *, expected: str = "required", found: str = "found") -> None:
    """Print coloured tables to a terminal; ``expected`` and ``found`` are column titles."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, file=raw(sys.stdout))
    for group in groups:
        table = Table(title=clean(group.title), title_justify="left", show_edge=False, pad_edge=False)
        for column in ("", "what", found, expected):
            table.add_column(column, overflow="fold")
        for check in group.checks:
            status = Text(check.status, style=_STYLES[check.status])
            details = Text("\n".join((check.found, *(_advice(check) if check.status != "ok" else ()))))
            table.add_row(status, *(Text(clean(str(cell))) for cell in (check.name, details, check.required)))
        console.print(table)
        console.print()


def as_json(groups: Iterable[Group]) -> str:
    """One JSON document, ``{"version": 1, "ok": ..., "groups": [{"title", "checks": [...]}]}``."""
    listed = list(groups)
    document = {
        "version": 1,
        "ok": not any(failed_checks(group.checks) for group in listed),
        "groups": [
            {"title": group.title, "checks": [check.document() for check in group.checks]} for group in listed
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)
