"""Locks that are released when their process dies (``flock``; NFS needs version 4)."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.layout import Store

_STATES = {
    "T": "which is stopped (`kill -CONT {pid}` continues it)",
    "t": "which a debugger has stopped",
    "Z": "which has exited but was not reaped by its parent",
    "X": "which has exited",
}
_ENDED = "which has exited but left a child running"
_UNKNOWN = "another process"
_FIELDS = 6


def holder_text(path: os.PathLike[str] | str) -> str:
    """Describe the process that holds the lock at ``path``, with its state if that is unusual.

    The id of a process on another machine (a store on NFS) or in another container is not known.
    """
    try:
        inode = os.lstat(path).st_ino
    except OSError:
        return _UNKNOWN
    pids = _holders(inode)
    if not pids:
        return _UNKNOWN
    state = _state(pids[0])
    return f"process {pids[0]}" + (f", {state}" if state else "")


def _holders(inode: int) -> list[int]:
    """Return the processes on this machine that hold a ``flock`` on a file with this inode."""
    try:
        with open("/proc/locks", encoding="ascii") as stream:
            rows = [line.split() for line in stream]
    except (OSError, ValueError):
        return []
    # 1: FLOCK ADVISORY WRITE 4711 fe:00:123 0 EOF. Waiting processes have an arrow before FLOCK; 0 is not a process.
    held = [row for row in rows if len(row) >= _FIELDS and row[1] == "FLOCK" and row[5].endswith(f":{inode}")]
    return [int(row[4]) for row in held if row[4].isdigit() and row[4] != "0"]


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            letter = stream.read().rpartition(b")")[2].split()[0].decode("ascii")
    except FileNotFoundError:
        return _ENDED
    except (OSError, IndexError, ValueError):
        return ""
    return _STATES.get(letter, "").format(pid=pid)


FIRST_SECONDS = 2.0
AGAIN_SECONDS = 30.0


@dataclass(slots=True)
class Patience:
    """Decides when to report a wait.

    Attributes:
        begin: Start of the wait, by the monotonic clock.
    """

    begin: float = field(default_factory=time.monotonic)
    _due: float = FIRST_SECONDS

    @property
    def seconds(self) -> float:
        """Seconds since the start of the wait."""
        return time.monotonic() - self.begin

    def due(self) -> bool:
        """Return whether a report is due; True once per report."""
        if self.seconds < self._due:
            return False
        self._due = max(self._due, self.seconds) + AGAIN_SECONDS
        return True


def to_stderr(text: str) -> None:
    """Print a line to standard error, which may be closed or full."""
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


_reporters: list[Callable[[str], None]] = [to_stderr]


def report_to(reporter: Callable[[str], None]) -> None:
    """Send reports to ``reporter`` from now on: for workers, whose standard error is a log."""
    _reporters[:] = [reporter]


def report(text: str) -> None:
    """Show ``text`` to the user."""
    for reporter in _reporters:
        reporter(text)


def _wait_until(done: Callable[[], bool], what: Callable[[float], str], limit: float) -> bool:
    """Call ``done`` until it returns True; return False after ``limit`` seconds.

    Args:
        done: The condition; called about every 50 ms.
        what: Returns the line to report for the seconds waited.
        limit: Seconds.
    """
    patience, pause = Patience(), 0.001
    while not done():
        if patience.seconds >= limit:
            return False
        if patience.due():
            report(what(patience.seconds))
        time.sleep(pause)
        pause = min(0.05, pause * 2)
    return True


LIMIT_SECONDS = 10.0
"""For locks held during a few file operations: a process that holds one longer is stopped or hangs."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class FileLock:
    """A held lock, released by :meth:`release` or by the end of the process."""

    descriptor: int
    path: Path | None = None

    def release(self) -> None:
        os.close(self.descriptor)

    def remove(self) -> None:
        """Release the lock and remove its file, so that lock files do not accumulate.

        A process that opened the file before notices, once it has the lock, that the file was replaced, and retries.
        """
        if self.path is not None:
            with suppress(OSError):
                os.unlink(self.path)
        os.close(self.descriptor)


def try_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """Take the lock at ``path`` if no other process holds it; the file is created if missing.

    Raises:
        MmbuildError: MM301 or MM302, the file cannot be created; MM320, the path is not a regular file.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    while True:
        descriptor = _open(path)
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
    """Hold the lock at ``path``, waiting for another holder. For short work only.

    Args:
        path: File of the lock.
        what: Name of the lock in messages: ``the lock of ...``.

    Raises:
        MmbuildError: MM325, not released within :data:`LIMIT_SECONDS`; see also :func:`try_lock`.
    """
    held: list[FileLock] = []

    def done() -> bool:
        lock = try_lock(path)
        if lock is not None:
            held.append(lock)
        return bool(held)

    def line(seconds: float) -> str:
        return f"waiting for {what} (`{path}`) for {seconds:.0f} s: held by {holder_text(path)}"

    if not _wait_until(done, line, LIMIT_SECONDS):
        raise MmbuildError(
            f"{what} (`{path}`) was not released within {LIMIT_SECONDS:.0f} s: held by {holder_text(path)}",
            code="MM325",
            hint="let that process continue, or end it, and try again; finished actions are kept",
        )
    try:
        yield
    finally:
        held[0].release()


@contextmanager
def shared_lock(store: Store) -> Iterator[FileLock]:
    """Hold the store for a build: builds can run concurrently, but not with gc.

    Raises:
        MmbuildError: MM305, gc or verify is running.
    """
    lock = try_lock(store.root / "in-use", shared=True)
    if lock is None:
        raise _busy(store, "`mmbuild cache gc` or `cache verify` is using")
    try:
        yield lock
    finally:
        # Unlock, not only close: a worker that has reported its result but not exited also holds the descriptor.
        fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
        lock.release()


@contextmanager
def exclusive_lock(store: Store) -> Iterator[None]:
    """Hold the store exclusively, for gc and verify.

    Raises:
        MmbuildError: MM305, a build is using the store.
    """
    lock = try_lock(store.root / "in-use")
    if lock is None:
        raise _busy(store, "a build is using")
    try:
        yield
    finally:
        lock.release()


def _open(path: Path) -> int:
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
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(status, os.fstat(descriptor))


def _misplaced(path: Path, reason: str) -> MmbuildError:
    return MmbuildError(
        f"`{path}` cannot be used as a lock ({reason})",
        code="MM320",
        hint=f"find out who created it, then remove `{path}`, or give another store with `--store`",
    )


def _busy(store: Store, user: str) -> MmbuildError:
    return MmbuildError(
        f"{user} the store `{store.root}`: {holder_text(store.root / 'in-use')}",
        code="MM305",
        hint="try again when it has finished",
    )
