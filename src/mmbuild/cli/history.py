"""``mmbuild history``: past builds, their duration and the time the store saved."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import options

if TYPE_CHECKING:
    from mmbuild.core.store.history import HistoryEntry

_NAMES_SHOWN = 3


@click.command("history")
@click.argument("builds", nargs=-1, metavar="[BUILD]...")
@options.store
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of applies to show.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all of them, one JSON object per line.")
def command(*, builds: tuple[str, ...], store: Path | None, count: int, as_json: bool) -> None:
    """List the applies recorded in this store, newest last; with BUILD, a variant's name, only those that built it.

    "cached" counts results that were already in the store, "pulled" those from a shared store; "saved" is the time
    it originally took to build them. Applies with nothing to do are not listed.

    \b
    Example:
      mmbuild history
      mmbuild history llava-int4 -n 5
    """
    from mmbuild.core.store.history import only, read_history
    from mmbuild.core.store.layout import open_store

    names = [Path(build).name for build in builds]
    entries = only(read_history(open_store(store)), names)
    if as_json:
        for entry in entries:
            click.echo(json.dumps(asdict(entry)))
        return
    for line in _table(entries, count):
        click.echo(line)


def _table(entries: Sequence[HistoryEntry], count: int) -> Iterator[str]:
    if not entries:
        yield "nothing has been built yet"
        return
    head = ("began", "ended", "took", "built", "cached", "pulled", "saved", "builds")
    rows = [head, *(_row(entry) for entry in entries[-count:])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    built = sum(len(entry.ran) for entry in entries)
    kept = sum(entry.cached + entry.pulled for entry in entries)
    took, saved = (sum(getattr(entry, name) for entry in entries) for name in ("seconds", "saved"))
    yield (
        f"{len(entries)} applies took {_time_text(took)}: {built} actions built, {kept} reused, "
        f"which saved {_time_text(saved)}"
    )


def _row(entry: HistoryEntry) -> tuple[str, ...]:
    more = len(entry.builds) - _NAMES_SHOWN
    names = ", ".join(entry.builds[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
    failed = f" ({', '.join(f'{label} {code}' for label, code in entry.failed)})" if entry.failed else ""
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at)),
        entry.ended,
        _time_text(entry.seconds),
        str(len(entry.ran)),
        str(entry.cached),
        str(entry.pulled),
        _time_text(entry.saved),
        names + failed,
    )


def _time_text(seconds: float) -> str:
    """Format a duration: ``0.4 s``, ``1.5 min``, ``25 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
