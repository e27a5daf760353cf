"""Digests of the user's files, remembered by their stat.

A file whose device, inode, size, mtime and ctime are the same has the same bytes. A file that changed
within the last moments is not remembered: a later change could leave the same times.
"""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.store.hashing import hash_file
from mmbuild.store.layout import Store

if TYPE_CHECKING:
    import sqlite3

Stat = tuple[int, int, int, int, int]

SETTLED_NS = 50_000_000
"""Age below which a file's times may still hide a change: coarse clocks tick every 4 to 10 ms."""


def file_stat(path: Path | str) -> Stat:
    """(device, inode, size, mtime_ns, ctime_ns) of the file itself (links are followed)."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def settled(stat: Stat, now_ns: int | None = None) -> bool:
    """Whether the file's times are old enough to tell the next change apart."""
    return max(stat[3], stat[4]) < (now_ns or time.time_ns()) - SETTLED_NS


class Index:
    """The index of one store, over one connection; a cache: damaged, or locked for long, it knows nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection: sqlite3.Connection | None = None

    def digest(self, path: Path | str, threads: int | None = None) -> str:
        """BLAKE3, hex, of a user's file; read only when its stat is not known."""
        stat = file_stat(path)
        if found := self._lookup(stat):
            return found
        digest = hash_file(path, threads)
        if file_stat(path) == stat and settled(stat):
            self._remember(stat, digest)
        return digest

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _lookup(self, stat: Stat) -> str | None:
        import sqlite3

        wanted = "SELECT digest FROM files WHERE dev=? AND ino=? AND size=? AND mtime=? AND ctime=?"
        try:
            row = self._connected().execute(wanted, stat).fetchone()
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            self.close()
            (self._store.root / "stat.db").unlink(missing_ok=True)
            return None
        return str(row[0]) if row else None

    def _remember(self, stat: Stat, digest: str) -> None:
        import sqlite3

        with suppress(sqlite3.DatabaseError):
            self._connected().execute("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?)", (*stat, digest))

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            import sqlite3

            connection = sqlite3.connect(self._store.root / "stat.db", timeout=10, isolation_level=None)
            self._connection = connection
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS files (dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER,"
                " ctime INTEGER, digest TEXT, PRIMARY KEY (dev, ino)) WITHOUT ROWID"
            )
        return self._connection


def digest_file(store: Store, path: Path | str, threads: int | None = None) -> str:
    """:meth:`Index.digest` of one file."""
    with closing(Index(store)) as index:
        return index.digest(path, threads)
