"""Checks for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from mmbuild.base.checks import Check, Group, failed_checks
from mmbuild.base.terminal_text import clean, raw

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "cyan"}


def text(groups: Sequence[Group], *, expected: str = "wanted", found: str = "") -> str:
    """Plain text: a line for each check, and below it why it matters and what to do.

    Args:
        groups: Checks.
        expected: Word before what is required.
        found: Word before what was found; where given, both are always said, the wanted first.
    """
    width = max((len(check.name) for group in groups for check in group.checks), default=0)
    blocks = []
    for group in groups:
        reported = (line for check in group.checks for line in _lines(check, width, expected, found))
        blocks.append("\n".join((group.title, *reported)))
    return "\n\n".join(blocks) + "\n"


def _lines(check: Check, width: int, expected: str, found: str) -> Iterator[str]:
    state = f"{expected} {check.wanted}; {found} {check.found}" if found else _state(check, expected)
    yield f"  {check.status:<7}  {check.name:<{width}}  {state}".rstrip()
    if check.status != "ok":
        indent = " " * (width + 13)
        yield from (f"{indent}{part}" for part in _advice(check))


def _state(check: Check, expected: str) -> str:
    if check.wanted and check.status != "ok":
        return f"{check.found}; {expected}: {check.wanted}"
    return f"{check.found} ({check.wanted})" if check.wanted else check.found


def _advice(check: Check) -> Iterator[str]:
    if check.why:
        yield f"why: {check.why}"
    if check.way:
        yield f"way: {check.way}"


def print_table(groups: Iterable[Group], *, expected: str = "wanted", found: str = "found") -> None:
    """The same as tables in colours, to a terminal; the words head the columns."""
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
            reported = Text("\n".join((check.found, *(_advice(check) if check.status != "ok" else ()))))
            table.add_row(status, *(Text(clean(str(cell))) for cell in (check.name, reported, check.wanted)))
        console.print(table)
        console.print()


def as_json(groups: Iterable[Group]) -> str:
    """One JSON document, ``{"version": 1, "ok": ..., "groups": [{"title", "checks": [...]}]}``."""
    listed = list(groups)
    document = {
        "version": 1,
        "ok": not any(failed_checks(group.checks) for group in listed),
        "groups": [
            {"title": group.title, "checks": [asdict(check) for check in group.checks]} for group in listed
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)
