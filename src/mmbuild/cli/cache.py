"""``mmbuild cache``: list, check and shrink the store."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import options

if TYPE_CHECKING:
    from mmbuild.store.usage import Held

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Quantity(click.ParamType[float]):
    """A number with a unit: ``20GB``, ``30d``."""

    def __init__(self, name: str, units: dict[str, int], pattern: str, example: str) -> None:
        self.name, self.units, self.pattern, self.example = name, units, pattern, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return value
        match = re.fullmatch(self.pattern, str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is no {self.name}; write it like {self.example}", param, ctx)
        return float(match[1]) * self.units[match[2] or ""]


_SIZE = _Quantity("size", _SIZES, r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", "500MB or 20GB")
_AGE = _Quantity("age", _AGES, r"(\d+(?:\.\d+)?)\s*([smhdw])", "12h or 30d")


@click.group("cache")
def command() -> None:
    """List, check and shrink the store.

    \b
    Example:
      mmbuild cache ls
      mmbuild cache gc --older-than 30d --dry-run
    """


@command.command("ls")
@options.store
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(*, store: Path | None, as_json: bool) -> None:
    """List the artifacts, last used first, with the named builds that reach them.

    \b
    Example:
      mmbuild cache ls --json
    """
    from mmbuild.cli.output import say, size_text
    from mmbuild.store.journal import load_cache
    from mmbuild.store.layout import open_store
    from mmbuild.store.usage import held_artifacts

    opened = open_store(store)
    held = held_artifacts(opened, load_cache(opened))
    if as_json:
        click.echo(json.dumps({"schema": 1, "store": str(opened.root), "artifacts": [_row(i) for i in held]}))
        return
    width = max((len(item.label) for item in held), default=0)
    for item in held:
        users = ", ".join(item.recipes) or "-"
        click.echo(f"{item.digest[:16]}  {size_text(item.size):>9}  {item.label:<{width}}  {users}")
    say(f"{len(held)} artifacts in `{opened.root}`")


@command.command("verify")
@options.store
def verify(*, store: Path | None) -> None:
    """Hash everything again and remove what is damaged; exit status 1 if anything was.

    \b
    Example:
      mmbuild cache verify
    """
    from mmbuild.cli.output import say
    from mmbuild.store.layout import open_store
    from mmbuild.store.verify import check_store

    found = check_store(open_store(store))
    for fault in found.faults:
        click.echo(f"removed: {fault}")
    if found.leftovers:
        say(f"{found.leftovers} leftovers of killed builds (no damage)")
    say(f"{found.objects} objects and {found.artifacts} artifacts checked, {len(found.faults)} faults")
    if found.faults:
        say("what was removed is built again when it is needed")
        sys.exit(1)


@command.command("gc")
@options.store
@click.option("--max-size", type=_SIZE, metavar="SIZE", help="Stop when the store is no larger: 500MB, 20GB.")
@click.option("--older-than", type=_AGE, metavar="AGE", help="Only what was not used for so long: 12h, 30d.")
@click.option("--dry-run", is_flag=True, help="Show what would go.")
def gc(*, store: Path | None, max_size: float | None, older_than: float | None, dry_run: bool) -> None:
    """Remove artifacts that no named build (an existing build/<recipe>) reaches, longest unused first.

    \b
    Example:
      mmbuild cache gc --max-size 20GB --dry-run
    """
    from mmbuild.cli.output import say, size_text
    from mmbuild.store.gc import collect
    from mmbuild.store.layout import open_store

    limit = None if max_size is None else int(max_size)
    swept = collect(open_store(store), max_size=limit, older_than=older_than, dry_run=dry_run)
    for item in swept.removed:
        click.echo(f"{item.digest[:16]}  {size_text(item.size):>9}  {item.label}")
    verb = "would free" if dry_run else "freed"
    say(f"{verb} {size_text(swept.freed)}; {swept.kept} artifacts stay ({size_text(swept.kept_size)})")
    if limit is not None and swept.kept_size > limit:
        say("what is left is used by named builds; remove an engine directory to let its artifacts go")


def _row(item: Held) -> dict[str, Any]:
    return {
        "digest": item.digest,
        "label": item.label,
        "size": item.size,
        "used": item.used,
        "recipes": list(item.recipes),
        "files": len(item.tree.entries) if item.tree is not None else None,
    }
