"""Where the jobs of one apply lie while they run, and what killed applies left there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmbuild.store.faults import disk_errors
from mmbuild.store.files import remove_tree
from mmbuild.store.layout import Store
from mmbuild.store.locks import try_lock, wait_lock


def sweep(store: Store) -> None:
    """Remove the staging that killed applies left."""
    with wait_lock(store.lock("staging")):
        for old in store.staging.iterdir():
            lock = try_lock(old / "lock") if old.is_dir() else None
            if lock is not None:
                remove_tree(old)
                lock.release()


@contextmanager
def staging(store: Store) -> Iterator[Path]:
    """A directory for this apply's jobs; its lock tells others that it is in use.

    Raises:
        MmbuildError: MM301, MM302 it cannot be made.
    """
    # Nobody may sweep the directory before it is locked.
    with disk_errors(store.staging), wait_lock(store.lock("staging")):
        path = Path(tempfile.mkdtemp(prefix="apply-", dir=store.staging))
        lock = try_lock(path / "lock")
    try:
        yield path
    finally:
        remove_tree(path)
        if lock is not None:
            lock.release()
