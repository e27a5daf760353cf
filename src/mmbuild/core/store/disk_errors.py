"""Translates disk errors into messages, and defines the fault points where tests kill the process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from mmbuild.base.errors import MmbuildError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
FULL_STORE = (
    "free some space (`mmbuild cache gc`), or use another store with `--store`; finished actions are kept"
)
FULL_BUILD_DIR = (
    "free some space there, or use another directory with `--build-dir`; finished actions are kept"
)


_DENIED_DIRECTORY = "use a directory that you can write to with `--store` or `--build-dir`"
_OWN_FILE = "check the directory's permissions and free space, or name another file"


def translate(
    error: OSError, where: Path, full_hint: str = FULL_STORE, denied_hint: str = _DENIED_DIRECTORY
) -> MmbuildError | None:
    """Return the error for a full disk or for missing permission, each with its hint; None for any other error."""
    path = error.filename2 or error.filename or where  # of a copy or a link, what it writes
    if error.errno in _FULL:
        return MmbuildError(
            f"no space left while writing `{path}` ({os.strerror(error.errno)})", code="MM302", hint=full_hint
        )
    if error.errno in _DENIED:
        return MmbuildError(
            f"cannot write `{path}` ({os.strerror(error.errno)})",
            code="MM301",
            hint=denied_hint,
        )
    return None


@contextmanager
def disk_errors(
    where: Path, full_hint: str = FULL_STORE, denied_hint: str = _DENIED_DIRECTORY
) -> Iterator[None]:
    """Raise :class:`MmbuildError` if the disk is full or permissions are missing in the block."""
    try:
        yield
    except OSError as error:
        reported = translate(error, where, full_hint, denied_hint)
        if reported is None:
            raise
        raise reported from error


def output_errors(file: Path) -> AbstractContextManager[None]:
    """:func:`disk_errors` for a file that the user names, outside the store and the build directory."""
    return disk_errors(file, _OWN_FILE, _OWN_FILE)


def fault_point(name: str) -> None:
    """Kill this process, as ``kill -9`` does, if ``MMBUILD_FAULT`` names this point (for tests of recovery)."""
    if os.environ.get("MMBUILD_FAULT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
