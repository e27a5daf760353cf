"""``history.jsonl``: one line for each apply that had something to do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbuild.store.faults import disk_errors
from mmbuild.store.files import append_line, write_whole
from mmbuild.store.layout import Store
from mmbuild.store.locks import wait_lock

MOST_BYTES = 8_000_000
"""A longer file loses its older half."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One apply.

    Attributes:
        at: Seconds since the epoch when it began.
        seconds: Wall time.
        ended: ``done``, ``failed`` or ``interrupted``.
        builds: Names of the variants it was asked for.
        ran: (label, seconds) of what ran, in the order of their ends.
        failed: (label, code) of what failed.
        cached: Results that were there, or turned out to be when inputs came out as before.
        pulled: Results whose files came from the shared store.
        saved: Seconds that ``cached`` and ``pulled`` took when they were built, wherever that was.
        host: Name of the machine.
        mmbuild: Its version.
    """

    at: float
    seconds: float
    ended: str
    builds: tuple[str, ...]
    ran: tuple[tuple[str, float], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    cached: int = 0
    pulled: int = 0
    saved: float = 0.0
    host: str = ""
    mmbuild: str = ""


def history_path(store: Store) -> Path:
    """The file."""
    return store.root / "history.jsonl"


def append_entry(store: Store, entry: Entry) -> None:
    """Add a line.

    Raises:
        MmbuildError: MM301, MM302.
    """
    path = history_path(store)
    with disk_errors(path):
        append_line(path, json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n")
        if path.stat().st_size > MOST_BYTES:
            _shorten(store, path)


def read_history(store: Store) -> list[Entry]:
    """All entries, oldest first; damaged lines are left out."""
    try:
        lines = history_path(store).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [entry for line in lines if (entry := _parse(line)) is not None]


def only(entries: Iterable[Entry], names: Iterable[str]) -> list[Entry]:
    """Entries that were asked for one of ``names``; all where there are no names."""
    wanted = set(names)
    return [entry for entry in entries if not wanted or wanted & set(entry.builds)]


def _shorten(store: Store, path: Path) -> None:
    with wait_lock(store.lock("history")):
        if path.stat().st_size <= MOST_BYTES:  # another process did it
            return
        # A line that another process adds at this very moment is lost: this is a diary, not the journal.
        content = path.read_bytes()
        middle = content.find(b"\n", len(content) // 2) + 1
        write_whole(path, content[middle:])


def _parse(line: bytes) -> Entry | None:
    try:
        data: dict[str, Any] = json.loads(line)
        for name in ("ran", "failed"):
            data[name] = tuple(tuple(pair) for pair in data[name])
        return Entry(**{**data, "builds": tuple(data["builds"])})
    except (ValueError, TypeError, KeyError):
        return None
