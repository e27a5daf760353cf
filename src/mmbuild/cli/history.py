"""``mmbuild history``: past builds, their duration and the time the store saved."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options
from mmbuild.cli.tables import print_folded, print_table

if TYPE_CHECKING:
    from mmbuild.core.store.history import HistoryEntry

_NAMES_SHOWN = 3
_LISTED = 5
_TITLES = ("began", "ended", "took", "built", "cached", "pulled", "saved", "builds")


@commands.command("history")
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
@options.json_option("all of them, one object per line")
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
    from mmbuild.core.store.layout import existing_store

    names = [Path(build).name for build in builds]
    recorded = read_history(existing_store(store))
    _require_recorded(names, recorded)
    entries = only(recorded, names)
    if as_json:
        for entry in entries:
            click.echo(json.dumps(asdict(entry)))
        return
    if not entries:
        click.echo("nothing has been built yet")
        return
    print_table([_TITLES, *(_row(entry) for entry in entries[-count:])])
    print_folded(_summary(entries))


def _require_recorded(names: Sequence[str], entries: Sequence[HistoryEntry]) -> None:
    """Refuse names that no apply built; without any apply there is nothing to compare them with.

    Raises:
        MmbuildError: MM542.
    """
    from mmbuild.base.diagnostics import nearest
    from mmbuild.base.errors import MmbuildError

    known = sorted({build for entry in entries for build in entry.builds})
    unknown = next((name for name in names if name not in known), None)
    if unknown is None or not known:
        return
    near = nearest(unknown, known)
    listed = ", ".join(known[:_LISTED]) + (
        f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    )
    raise MmbuildError(
        f"no recorded apply built `{unknown}`",
        code="MM542",
        hint=f"did you mean `{near}`?" if near else f"the history has {listed}",
    )


def _summary(entries: Sequence[HistoryEntry]) -> str:
    built = sum(len(entry.ran) for entry in entries)
    kept = sum(entry.cached + entry.pulled for entry in entries)
    took, saved = (sum(getattr(entry, name) for entry in entries) for name in ("seconds", "saved"))
    applies = "1 apply" if len(entries) == 1 else f"{len(entries)} applies"
    return (
        f"{applies} took {_time_text(took)}: {built} actions built, {kept} reused, "
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
