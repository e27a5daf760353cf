"""``logs/``: the output of each action, and ``logs/index.jsonl``, which says which action wrote which log, and when.

An action has one log, which its next run replaces. The index has a line when an action starts and one when it ends,
so that the log of an action that failed, was interrupted or is still running is found too.
"""

from __future__ import annotations

import codecs
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mmbuild.base.files import FileRefusedError, open_regular, read_file
from mmbuild.base.json_reader import parse_json
from mmbuild.base.limits import STORE_RECORD
from mmbuild.core.store.atomic_files import append_line, write_whole
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import wait_lock
from mmbuild.core.store.record_fields import COUNT, DIGEST, NUMBER, TEXT, FieldKind, or_null, require_fields

RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
"""Statuses of a run."""
_STATUSES = (RUNNING, DONE, FAILED, INTERRUPTED)

MOST_BYTES = 4_000_000
"""If the index grows beyond this, its older half is dropped."""
_READ_BYTES = 4 * MOST_BYTES
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A run of an action, and a line of the index.

    Attributes:
        apply: The apply that it belongs to, unique in this store.
        label: The action.
        key: Its action key, which names its log.
        status: One of the statuses above.
        at: Start time, seconds since the epoch; in the line for its end, the time of the end.
        pid: Process of the apply.
        born: Start of that process, in ticks since this machine booted; None if unknown.
        host: Name of the machine.
        seconds: Wall time; None until it ended.
    """

    apply: str
    label: str
    key: str
    status: str
    at: float
    pid: int
    born: int | None = None
    host: str = ""
    seconds: float | None = None


_FIELDS: Mapping[str, FieldKind] = {
    "apply": TEXT,
    "label": TEXT,
    "key": DIGEST,
    "status": TEXT,
    "at": NUMBER,
    "pid": COUNT,
    "born": or_null(COUNT),
    "host": TEXT,
    "seconds": or_null(NUMBER),
}


def index_path(store: Store) -> Path:
    """Return the path of the index."""
    return store.root / "logs" / "index.jsonl"


def process_start(pid: int) -> int | None:
    """Start of a process of this machine, in ticks since it booted; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return int(stream.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def append_run(store: Store, run: LoggedRun) -> None:
    """Append a line to the index.

    Raises:
        MmbuildError: MM301, MM302.
    """
    path = index_path(store)
    with disk_errors(path):
        append_line(path, json.dumps(asdict(run), separators=(",", ":")).encode() + b"\n")
        if path.stat().st_size > MOST_BYTES:
            _shorten(store, path)


def read_runs(store: Store) -> list[LoggedRun]:
    """Return all runs, the oldest start first; damaged lines are skipped."""
    try:
        lines = read_file(index_path(store), _READ_BYTES).splitlines()
    except (OSError, FileRefusedError):
        return []
    runs: dict[tuple[str, str], LoggedRun] = {}
    for line in lines:
        if (entry := _parse(line)) is None:
            continue
        known = runs.get((entry.apply, entry.label))
        if known is not None and entry.status != RUNNING:  # its end
            entry = replace(known, status=entry.status, seconds=round(max(0.0, entry.at - known.at), 3))
        runs[entry.apply, entry.label] = entry
    return [_current(run) for run in runs.values()]


def last_apply(runs: list[LoggedRun]) -> list[LoggedRun]:
    """Return the runs of the apply that started an action last."""
    return [run for run in runs if run.apply == runs[-1].apply] if runs else []


def _current(run: LoggedRun) -> LoggedRun:
    """``run``, or, if nothing can end it any more, the same as interrupted."""
    if run.status != RUNNING or run.host != platform.node() or process_start(run.pid) == run.born:
        return run
    return replace(run, status=INTERRUPTED)


def _shorten(store: Store, path: Path) -> None:
    with wait_lock(store.lock("log-index"), "the lock of the index of logs"):
        if path.stat().st_size <= MOST_BYTES:  # another process did it
            return
        content = read_file(path, _READ_BYTES)
        write_whole(path, content[content.find(b"\n", len(content) // 2) + 1 :])


def _parse(line: bytes) -> LoggedRun | None:
    try:
        run = LoggedRun(**require_fields(parse_json(line, STORE_RECORD), _FIELDS))
        return run if run.status in _STATUSES else None
    except (ValueError, TypeError, KeyError):
        return None


class LogReader:
    """Reads a log in pieces, also while it is written. A log that was replaced is read from its beginning.

    Args:
        path: The log.
        since: Content that was written before this time, in seconds since the epoch, is of an earlier run.
    """

    def __init__(self, path: Path, since: float = 0.0) -> None:
        self._path, self._since, self._offset = path, since, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def fresh(self) -> Iterator[str]:
        """Yield what was added since the last call, in pieces of at most 64 KiB; nothing if there is no log."""
        with suppress(OSError, FileRefusedError):
            descriptor = open_regular(self._path)
            try:
                status = os.fstat(descriptor)
                if status.st_mtime < self._since:
                    return
                if status.st_size < self._offset:
                    self._offset = 0
                while data := os.pread(descriptor, _CHUNK, self._offset):
                    self._offset += len(data)
                    yield self._decoder.decode(data)
            finally:
                os.close(descriptor)
