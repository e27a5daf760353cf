"""``history.jsonl``: one line for each apply that had work to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.json_reader import parse_json
from mmbuild.base.limits import STORE_HISTORY
from mmbuild.core.store.atomic_files import append_line, write_whole
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import wait_lock
from mmbuild.core.store.record_fields import COUNT, NUMBER, TEXT, FieldKind, list_of, require_fields, tuple_of

MOST_BYTES = 8_000_000
"""If the file grows beyond this, its older half is dropped."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Record of one apply.

    Attributes:
        at: Start time, seconds since the epoch.
        seconds: Wall time.
        ended: ``done``, ``failed`` or ``interrupted``.
        builds: Names of the requested variants.
        ran: (label, seconds) of the actions that ran, in the order in which they finished.
        failed: (label, code) of the failed actions.
        cached: Number of reused results, including early cutoffs.
        pulled: Number of results whose files came from the shared store.
        saved: Seconds that the ``cached`` and ``pulled`` results took to build, on any machine.
        host: Name of the machine.
        mmbuild: Version of mmbuild.
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


_ENTRY: Mapping[str, FieldKind] = {
    "at": NUMBER,
    "seconds": NUMBER,
    "ended": TEXT,
    "builds": list_of(TEXT),
    "ran": list_of(tuple_of(TEXT, NUMBER)),
    "failed": list_of(tuple_of(TEXT, TEXT)),
    "cached": COUNT,
    "pulled": COUNT,
    "saved": NUMBER,
    "host": TEXT,
    "mmbuild": TEXT,
}
_READ_BYTES = 4 * MOST_BYTES
"""A file larger than this was not written by mmbuild."""


def history_path(store: Store) -> Path:
    """Return the path of the history file."""
    return store.root / "history.jsonl"


def append_entry(store: Store, entry: HistoryEntry) -> None:
    """Append an entry.

    Raises:
        MmbuildError: MM301, MM302.
    """
    path = history_path(store)
    with disk_errors(path):
        append_line(path, json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n")
        if path.stat().st_size > MOST_BYTES:
            _shorten(store, path)


def read_history(store: Store) -> list[HistoryEntry]:
    """Return all entries, oldest first; damaged lines are skipped."""
    try:
        lines = read_file(history_path(store), _READ_BYTES).splitlines()
    except (OSError, FileRefusedError):
        return []
    return [entry for line in lines if (entry := _parse(line)) is not None]


def only(entries: Iterable[HistoryEntry], names: Iterable[str]) -> list[HistoryEntry]:
    """Return the entries whose builds include one of ``names``; all entries if ``names`` is empty."""
    required = set(names)
    return [entry for entry in entries if not required or required & set(entry.builds)]


def _shorten(store: Store, path: Path) -> None:
    with wait_lock(store.lock("history"), "the lock of the history"):
        if path.stat().st_size <= MOST_BYTES:  # another process did it
            return
        # A line that another process appends at this moment is lost, which is acceptable for the history.
        content = read_file(path, _READ_BYTES)
        middle = content.find(b"\n", len(content) // 2) + 1
        write_whole(path, content[middle:])


def _parse(line: bytes) -> HistoryEntry | None:
    try:
        data = require_fields(parse_json(line, STORE_HISTORY), _ENTRY)
        pairs = {name: tuple(map(tuple, data[name])) for name in ("ran", "failed")}
        return HistoryEntry(**{**data, **pairs, "builds": tuple(data["builds"])})
    except (ValueError, TypeError, KeyError):
        return None
