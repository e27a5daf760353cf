"""Where the jobs of one apply lie while they run, and what killed applies left there."""

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
    """Remove the staging that killed applies left."""
    with wait_lock(store.lock("staging"), _WHAT):
        for old in names_in(store.staging):
            if old.is_symlink() or not old.is_dir():  # nothing of ours
                discard(old)
                continue
            with suppress(MmbuildError):  # something else under the lock's name: for `cache verify`
                lock = try_lock(old / "lock")
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
    with disk_errors(store.staging), wait_lock(store.lock("staging"), _WHAT):
        path = Path(tempfile.mkdtemp(prefix="apply-", dir=store.staging))
        lock = try_lock(path / "lock")
    try:
        yield path
    finally:
        remove_tree(path)
        if lock is not None:
            lock.release()
