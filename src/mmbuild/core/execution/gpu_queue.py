"""The GPUs of a machine, shared by its processes and users: first come, first served.

A directory that all users of the machine write to holds, for each GPU, the lock file of its holders and a directory
of tickets: one file for each action that waits, named after the time it came. A waiting process holds a lock on its
ticket, so the ticket of a process that died is recognized and removed. Nobody takes a GPU for which there is an
earlier ticket: otherwise actions that share a GPU could forever keep it from one that needs it alone.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.locks import FileLock

# One place for all users, whatever their TMPDIR is.
DIRECTORY = Path("/tmp/mmbuild-gpus")
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_ORDINARY = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH
_WAITING = ".waiting"
_number = itertools.count()


@dataclass(slots=True)
class GpuRequest:
    """What one action asks for: ``count`` of some GPUs, alone or ``shared`` with others that share.

    Attributes:
        uuids: GPUs to choose from.
        count: How many.
        shared: Whether others may use them at the same time.
        directory: Where locks and tickets are.
    """

    uuids: Sequence[str]
    count: int
    shared: bool = False
    directory: Path = field(default_factory=lambda: DIRECTORY)
    _tickets: dict[str, FileLock] = field(default_factory=dict)

    def try_take(self) -> Mapping[str, FileLock] | None:
        """Locks of the GPUs by UUID; None if too few are free or others came first. Call it again then: the request
        keeps its place.

        Raises:
            MmbuildError: MM320, a link or a directory stands where a file should be.
        """
        held: dict[str, FileLock] = {}
        place = _made(self.directory)
        for uuid in self.uuids:
            if len(held) < self.count and self._is_first(uuid):
                lock = _try_lock(place / f"{uuid}.lock", shared=self.shared)
                if lock is not None:
                    held[uuid] = lock
        if len(held) == self.count:
            self.close()
            return held
        for lock in held.values():
            lock.release()
        for uuid in self.uuids:
            if uuid not in self._tickets:
                self._tickets[uuid] = _new_ticket(_made(place / f"{uuid}{_WAITING}"))
        return None

    def close(self) -> None:
        """Give up the place of the request."""
        for ticket in self._tickets.values():
            ticket.remove()
        self._tickets.clear()

    def _is_first(self, uuid: str) -> bool:
        """Whether nobody that still waits for the GPU came before."""
        own = self._tickets.get(uuid)
        for ticket in _tickets(self.directory / f"{uuid}{_WAITING}"):
            if own is not None and own.path is not None and ticket.name >= own.path.name:
                return True
            if _is_live(ticket):
                return False
        return True


def _tickets(directory: Path) -> Iterator[Path]:
    """Tickets, oldest first."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    yield from (directory / name for name in names)


def _is_live(ticket: Path) -> bool:
    """Whether the process of a ticket lives; the ticket is removed if not."""
    lock = _try_lock(ticket, create=False)
    if lock is not None:
        lock.remove()
    return lock is None and ticket.exists()


def _new_ticket(directory: Path) -> FileLock:
    """A ticket with the time of now."""
    while True:
        # Others may take it for that of a dead process before it is locked, and remove it.
        path = directory / f"{time.monotonic_ns():020d}-{os.getpid()}-{next(_number)}"
        lock = _try_lock(path)
        if lock is not None:
            return lock


def _try_lock(path: Path, *, shared: bool = False, create: bool = True) -> FileLock | None:
    """The lock of a file, which another user may own; None if it is held, or missing without ``create``."""
    descriptor = _opened(path, create=create)
    if descriptor is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # Removed meanwhile, by somebody who found it without a holder.
        current = os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except (BlockingIOError, FileNotFoundError):
        current = False
    if not current:
        os.close(descriptor)
        return None
    return FileLock(descriptor, path)


def _opened(path: Path, *, create: bool) -> int | None:
    """A descriptor of a regular file. Reading is enough to lock it, and all that a file of another user allows."""
    try:
        with suppress(FileNotFoundError):
            return _regular(path, os.open(path, _OPEN))
        if not create:
            return None
        with suppress(FileExistsError):
            return _regular(path, os.open(path, _CREATE, _ORDINARY))
        return _regular(path, os.open(path, _OPEN))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _misplaced(path, str(error.strerror)) from error


def _regular(path: Path, descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _misplaced(path, "not a regular file")
    return descriptor


def _made(directory: Path) -> Path:
    """``directory``, in which every user may create files; it exists afterwards."""
    try:
        directory.mkdir()
        directory.chmod(0o1777)
    except FileExistsError:
        if not stat.S_ISDIR(directory.lstat().st_mode):
            raise _misplaced(directory, "not a directory") from None
    return directory


def _misplaced(path: Path, reason: str) -> MmbuildError:
    return MmbuildError(
        f"`{path}` cannot be used to share the GPUs of this machine ({reason})",
        code="MM320",
        hint=f"find out who created it, then remove `{path}`",
    )
