"""Locks that die with their holder (``flock``; on NFS they need version 4)."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.layout import Store
from mmbuild.core.store.lock_holder import holder_text
from mmbuild.core.store.wait_notices import wait_until

LIMIT_SECONDS = 10.0
"""For locks that are held for the time of some file operations: who holds one longer is stopped, or hangs."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class FileLock:
    """A held lock; :meth:`release` ends it, and so does the end of the process."""

    descriptor: int
    path: Path | None = None

    def release(self) -> None:
        os.close(self.descriptor)

    def remove(self) -> None:
        """End it, and remove its file: for locks of which there would be more and more.

        Who has opened the file meanwhile finds, once it has the lock, that the file is another one, and tries again.
        """
        if self.path is not None:
            with suppress(OSError):
                os.unlink(self.path)
        os.close(self.descriptor)


def try_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """Take the lock at ``path`` if nobody else holds it; the file is made when absent.

    Raises:
        MmbuildError: MM301, MM302 the file cannot be made, MM320 something else is in its place.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_current(path, descriptor):
            break
        os.close(descriptor)  # its last holder removed it
    return FileLock(descriptor, path)


@contextmanager
def wait_lock(path: Path, what: str = "a lock") -> Iterator[None]:
    """Hold the lock at ``path``, waiting for its holder. For short work only.

    Args:
        path: Its file.
        what: What it protects, for messages: ``the lock of ...``.

    Raises:
        MmbuildError: MM325 it was not to be had within :data:`LIMIT_SECONDS`; see also :func:`try_lock`.
    """
    taken: list[FileLock] = []

    def done() -> bool:
        lock = try_lock(path)
        if lock is not None:
            taken.append(lock)
        return bool(taken)

    def line(seconds: float) -> str:
        return f"waiting for {what} (`{path}`) for {seconds:.0f} s: held by {holder_text(path)}"

    if not wait_until(done, line, LIMIT_SECONDS):
        raise MmbuildError(
            f"{what} (`{path}`) was not released within {LIMIT_SECONDS:.0f} s: held by {holder_text(path)}",
            code="MM325",
            hint="let that process go on, or end it, and try again; finished actions are kept",
        )
    try:
        yield
    finally:
        taken[0].release()


@contextmanager
def shared_lock(store: Store) -> Iterator[FileLock]:
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
def exclusive_lock(store: Store) -> Iterator[None]:
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


def _opened(path: Path) -> int:
    try:
        with disk_errors(path):
            descriptor = os.open(path, _FLAGS, 0o666)
    except OSError as error:  # a link, a directory, a socket
        raise _misplaced(path, str(error.strerror)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _misplaced(path, "not a regular file")
    return descriptor


def _is_current(path: Path, descriptor: int) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _misplaced(path: Path, why: str) -> MmbuildError:
    return MmbuildError(
        f"`{path}` cannot be used as a lock ({why})",
        code="MM320",
        hint=f"find out who made it, then remove `{path}`, or give another store with `--store`",
    )


def _busy(store: Store, who: str) -> MmbuildError:
    place = store.root / "in-use"
    return MmbuildError(
        f"{who} the store `{store.root}`: {holder_text(place)}",
        code="MM305",
        hint="try again when it has finished",
    )
