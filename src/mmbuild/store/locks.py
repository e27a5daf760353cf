"""Locks that die with their holder (``flock``; on NFS they need version 4)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmbuild.errors import MmbuildError
from mmbuild.store.faults import disk_errors
from mmbuild.store.layout import Store


@dataclass(frozen=True, slots=True)
class Lock:
    """A held lock; :meth:`release` ends it, and so does the end of the process."""

    descriptor: int

    def release(self) -> None:
        os.close(self.descriptor)


def try_lock(path: Path, *, shared: bool = False) -> Lock | None:
    """Take the lock at ``path`` if nobody else holds it; the file is made when absent."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Lock(descriptor)


@contextmanager
def wait_lock(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``, waiting for whoever has it. For short work only."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def using(store: Store) -> Iterator[Lock]:
    """Hold the store as a build does: any number of builds at once, but no gc.

    Raises:
        MmbuildError: MM305 gc or verify is at work.
    """
    lock = try_lock(store.root / "in-use", shared=True)
    if lock is None:
        raise _busy(store, "`mmbuild cache gc` or `cache verify` is at work on")
    try:
        yield lock
    finally:
        # Unlocked, not only closed: a worker that has told its result and not quite ended holds the descriptor too.
        fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
        lock.release()


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Hold the store as gc does: nobody else.

    Raises:
        MmbuildError: MM305 a build is using the store.
    """
    lock = try_lock(store.root / "in-use")
    if lock is None:
        raise _busy(store, "a build is using")
    try:
        yield
    finally:
        lock.release()


def _busy(store: Store, who: str) -> MmbuildError:
    return MmbuildError(
        f"{who} the store `{store.root}`", code="MM305", hint="try again when it has finished"
    )
