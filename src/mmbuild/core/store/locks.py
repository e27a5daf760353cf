"""Locks that die with their holder (``flock``; on NFS they need version 4)."""

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
    "T": "which is stopped (`kill -CONT {pid}` lets it go on)",
    "t": "which a debugger has stopped",
    "Z": "which has ended, though its parent has not noticed",
    "X": "which has ended",
}
_ENDED = "which has ended, though something that it started has not"
_NOBODY = "another process"
_FIELDS = 6


def holder_text(path: os.PathLike[str] | str) -> str:
    """The process that holds the lock at ``path``, with its state where that is unusual.

    Of a process of another machine (a store on NFS) or of another container the number is not known.
    """
    try:
        inode = os.lstat(path).st_ino
    except OSError:
        return _NOBODY
    pids = _listed(inode)
    if not pids:
        return _NOBODY
    state = _state(pids[0])
    return f"process {pids[0]}" + (f", {state}" if state else "")


def _listed(inode: int) -> list[int]:
    """Processes of this machine that hold a ``flock`` on a file with this inode."""
    try:
        with open("/proc/locks", encoding="ascii") as stream:
            rows = [line.split() for line in stream]
    except (OSError, ValueError):
        return []
    # 1: FLOCK ADVISORY WRITE 4711 fe:00:123 0 EOF; who waits has an arrow before the kind, and 0 is no process.
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
    """When to say something about one wait.

    Attributes:
        begin: When it began, by the monotonic clock.
    """

    begin: float = field(default_factory=time.monotonic)
    _due: float = FIRST_SECONDS

    @property
    def seconds(self) -> float:
        """How long this goes on."""
        return time.monotonic() - self.begin

    def due(self) -> bool:
        """Whether it is time to say something; true once for each time."""
        if self.seconds < self._due:
            return False
        self._due = max(self._due, self.seconds) + AGAIN_SECONDS
        return True


def to_stderr(text: str) -> None:
    """A line on standard error, which may be closed or full."""
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


_reporters: list[Callable[[str], None]] = [to_stderr]


def report_to(reporter: Callable[[str], None]) -> None:
    """From now on have ``reporter`` called with each line: in a worker, whose standard error is a log."""
    _reporters[:] = [reporter]


def report(text: str) -> None:
    """Say ``text`` where a person sees it."""
    for reporter in _reporters:
        reporter(text)


def wait_until(done: Callable[[], bool], what: Callable[[float], str], limit: float) -> bool:
    """Call ``done`` until it is true; False where ``limit`` seconds were not enough.

    Args:
        done: What is waited for; called about every 50 ms.
        what: The line to report after so many seconds of waiting.
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
