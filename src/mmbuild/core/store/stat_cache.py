"""Digests of files, remembered by their stat: the user's, and the store's large ones.

A file whose device, inode, size, mtime and ctime are the same has the same bytes. A file that changed
within the last moments is not remembered: a later change could leave the same times.
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
"""Age below which a file's times may still hide a change: coarse clocks tick every 4 to 10 ms."""

SMALL = 1 << 20
"""Bytes below which reading a file costs less than looking it up."""

_WAIT_SECONDS = 0.25
"""For another process that writes. What is not looked up is read; what is not remembered is read again."""

_STEPS = 100_000
"""Of SQLite's machine for one statement: a lookup takes dozens, a statement of a foreign schema may have no end."""

_LONGEST = 10_000
"""Bytes of a row: ours have 160."""


def file_stat(path: Path | str) -> Stat:
    """(device, inode, size, mtime_ns, ctime_ns) of the file itself (links are followed)."""
    return stat_of(os.stat(path))


def stat_of(found: os.stat_result) -> Stat:
    """The same of what stat(2) said."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_settled(stat: Stat, now_ns: int | None = None) -> bool:
    """Whether the file's times are old enough to tell the next change apart."""
    return max(stat[3], stat[4]) < (now_ns or time.time_ns()) - SETTLED_NS


class StatCache:
    """The index of one store, over one connection; a cache: damaged, or in use for long, it knows nothing."""

    def __init__(self, store: Store) -> None:
        self._path = store.root / "stat.db"
        self._connection: sqlite3.Connection | None = None
        self._usable = True

    def digest(self, path: Path | str, threads: int | None = None) -> str:
        """BLAKE3, hex, of a file; read only when its stat is not known.

        Raises:
            OSError: It cannot be read.
        """
        stat = file_stat(path)
        if found := self._lookup(stat):
            return found
        digest = hash_file(path, threads)
        if file_stat(path) == stat and is_settled(stat):
            self.remember(stat, digest)
        return digest

    def content(self, path: Path | str) -> str:
        """:meth:`digest`, without a lookup where reading costs less.

        Raises:
            OSError: It cannot be read.
        """
        return hash_file(path, 1) if os.stat(path).st_size < SMALL else self.digest(path)

    def remember(self, stat: Stat, digest: str) -> None:
        """Note that a file with this stat has this content."""
        import sqlite3

        if not self._usable:
            return
        row = (*stat, digest, _checksum(stat, digest))
        try:
            self._connected().execute("INSERT OR REPLACE INTO known VALUES (?,?,?,?,?,?,?)", row)
        except (sqlite3.Error, OverflowError):
            self._usable = False

    def close(self) -> None:
        """Give the connection back."""
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
            row = self._connected().execute(expected, stat).fetchone()
        except (sqlite3.OperationalError, OverflowError):  # in use, or of another schema
            self._usable = False
            return None
        except sqlite3.Error:
            self.close()
            discard(self._path)
            return None
        if row is None or not is_digest(row[0]) or row[1] != _checksum(stat, row[0]):
            return None
        return str(row[0])

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            import sqlite3

            try:
                if not modes.S_ISREG(os.lstat(self._path).st_mode):
                    raise sqlite3.OperationalError("not a regular file")
            except FileNotFoundError:
                self._make()
            connection = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
            self._connection = connection
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
            connection.set_progress_handler(lambda: 1, _STEPS)
            # No file but this one: what a kill leaves damaged is made again.
            connection.execute("PRAGMA journal_mode=MEMORY")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS known (dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER,"
                " ctime INTEGER, digest TEXT, checksum TEXT, PRIMARY KEY (dev, ino)) WITHOUT ROWID"
            )
        return self._connection

    def _make(self) -> None:
        """An empty file, with the permissions of the store's other files: SQLite gives a group no right to write."""
        with suppress(OSError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def digest_file(store: Store, path: Path | str, threads: int | None = None) -> str:
    """:meth:`StatCache.digest` of one file."""
    with closing(StatCache(store)) as index:
        return index.digest(path, threads)


def _checksum(stat: Stat, digest: str) -> str:
    """Against damage of the disk, not against people who may write the store."""
    from blake3 import blake3

    return blake3(repr((*stat, digest)).encode()).hexdigest()[:16]
