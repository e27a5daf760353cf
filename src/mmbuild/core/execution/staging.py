"""Staging directories for the jobs of an apply, and cleanup after killed applies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.atomic_files import discard, names_in, remove_tree
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import try_lock, wait_lock

_WHAT = "the lock of the staging directory"


def sweep(store: Store) -> None:
    """Remove staging directories left by killed applies."""
    with wait_lock(store.lock("staging"), _WHAT):
        for old in names_in(store.staging):
            if old.is_symlink() or not old.is_dir():  # not created by mmbuild
                discard(old)
                continue
            with suppress(MmbuildError):  # the lock is not a regular file: left to `cache verify`
                lock = try_lock(old / "lock")
                if lock is not None:
                    remove_tree(old)
                    lock.release()


@contextmanager
def staging(store: Store) -> Iterator[Path]:
    """Create a directory for this apply's jobs; its lock shows others that it is in use.

    Raises:
        MmbuildError: MM301 or MM302, the directory cannot be created.
    """
    # No other process may sweep the directory before it is locked.
    with disk_errors(store.staging), wait_lock(store.lock("staging"), _WHAT):
        path = Path(tempfile.mkdtemp(prefix="apply-", dir=store.staging))
        lock = try_lock(path / "lock")
    try:
        yield path
    finally:
        remove_tree(path)
        if lock is not None:
            lock.release()
