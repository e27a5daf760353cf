"""Cache of file digests by stat, for user files and large files in the store.

A file with the same device, inode, size, mtime and ctime has the same content. A file that has just changed
is not cached: another change could leave the same times.
"""

from __future__ import annotations

import os
import stat as modes
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.field_checks import is_digest
from mmbuild.core.store.atomic_files import discard
from mmbuild.core.store.hashing import hash_file
from mmbuild.core.store.layout import Store

if TYPE_CHECKING:
    import sqlite3

Stat = tuple[int, int, int, int, int]

SETTLED_NS = 50_000_000
"""Minimum age of a file's times, nanoseconds: coarse clocks tick every 4 to 10 ms and could hide a newer change."""

SMALL = 1 << 20
"""Size below which reading a file costs less than a lookup, bytes."""

_WAIT_SECONDS = 0.25
"""Time to wait for another process that writes. If it passes, the file is read instead."""

_STEPS = 100_000
"""Limit of SQLite virtual machine steps per statement: a lookup takes dozens, but in a foreign schema a statement may
never end."""

_LONGEST = 10_000
"""Maximum bytes of a row; mmbuild's rows have 160."""


def file_stat(path: Path | str) -> Stat:
    """Return (device, inode, size, mtime_ns, ctime_ns) of a file; links are followed."""
    return stat_of(os.stat(path))


def stat_of(status: os.stat_result) -> Stat:
    """Return the same fields from the result of stat(2)."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(stat: Stat, now_ns: int | None = None) -> bool:
    """Return whether the file's times are old enough that another change would alter them."""
    return max(stat[3], stat[4]) < (now_ns or time.time_ns()) - SETTLED_NS


class StatCache:
    """The stat cache of a store, over one connection. If it is damaged or locked for long, every lookup misses."""

    def __init__(self, store: Store) -> None:
        self._path = store.root / "stat.db"
        self._connection: sqlite3.Connection | None = None
        self._usable = True

    def digest(self, path: Path | str, threads: int | None = None) -> str:
        """Return the BLAKE3 digest (hex) of a file, which is read only if its stat is not in the cache.

        Raises:
            OSError: It cannot be read.
        """
        stat = file_stat(path)
        if cached := self._lookup(stat):
            return cached
        digest = hash_file(path, threads)
        if file_stat(path) == stat and is_settled(stat):
            self.remember(stat, digest)
        return digest

    def content(self, path: Path | str) -> str:
        """:meth:`digest`, without a lookup for small files.

        Raises:
            OSError: It cannot be read.
        """
        return hash_file(path, 1) if os.stat(path).st_size < SMALL else self.digest(path)

    def remember(self, stat: Stat, digest: str) -> None:
        """Record the digest of a file with this stat."""
        import sqlite3

        if not self._usable:
            return
        row = (*stat, digest, _checksum(stat, digest))
        try:
            self._connect().execute("INSERT OR REPLACE INTO known VALUES (?,?,?,?,?,?,?)", row)
        except (sqlite3.Error, OverflowError):
            self._usable = False

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _lookup(self, stat: Stat) -> str | None:
        import sqlite3

        if not self._usable:
            return None
        expected = (
            "SELECT digest, checksum FROM known WHERE dev=? AND ino=? AND size=? AND mtime=? AND ctime=?"
        )
        try:
            row = self._connect().execute(expected, stat).fetchone()
        except (sqlite3.OperationalError, OverflowError):  # locked, or with another schema
            self._usable = False
            return None
        except sqlite3.Error:
            self.close()
            discard(self._path)
            return None
        if row is None or not is_digest(row[0]) or row[1] != _checksum(stat, row[0]):
            return None
        return str(row[0])

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            import sqlite3

            try:
                if not modes.S_ISREG(os.lstat(self._path).st_mode):
                    raise sqlite3.OperationalError("not a regular file")
            except FileNotFoundError:
                self._create()
            connection = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
            self._connection = connection
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
            connection.set_progress_handler(lambda: 1, _STEPS)
            # Without a journal file: a database damaged by a kill is created again.
            connection.execute("PRAGMA journal_mode=MEMORY")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS known (dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER,"
                " ctime INTEGER, digest TEXT, checksum TEXT, PRIMARY KEY (dev, ino)) WITHOUT ROWID"
            )
        return self._connection

    def _create(self) -> None:
        """Create the file with the store's usual permissions: SQLite would not make it group-writable."""
        with suppress(OSError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def digest_file(store: Store, path: Path | str, threads: int | None = None) -> str:
    """Return :meth:`StatCache.digest` of a file."""
    with closing(StatCache(store)) as index:
        return index.digest(path, threads)


def _checksum(stat: Stat, digest: str) -> str:
    """Return a checksum against disk damage, not against users who can write to the store."""
    from blake3 import blake3

    return blake3(repr((*stat, digest)).encode()).hexdigest()[:16]
