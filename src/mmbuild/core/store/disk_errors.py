"""Translates disk errors into messages, and defines the fault points where tests kill the process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
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


def translate(error: OSError, where: Path, full_hint: str = FULL_STORE) -> MmbuildError | None:
    """Return the error for a full disk, with ``full_hint``, or for missing permission; None for any other error."""
    path = error.filename2 or error.filename or where  # of a copy or a link, what it writes
    if error.errno in _FULL:
        return MmbuildError(
            f"no space left while writing `{path}` ({os.strerror(error.errno)})", code="MM302", hint=full_hint
        )
    if error.errno in _DENIED:
        return MmbuildError(
            f"cannot write `{path}` ({os.strerror(error.errno)})",
            code="MM301",
            hint="use a directory that you can write to with `--store` or `--build-dir`",
        )
    return None


@contextmanager
def disk_errors(where: Path, full_hint: str = FULL_STORE) -> Iterator[None]:
    """Raise :class:`MmbuildError` if the disk is full or permissions are missing in the block."""
    try:
        yield
    except OSError as error:
        reported = translate(error, where, full_hint)
        if reported is None:
            raise
        raise reported from error


def fault_point(name: str) -> None:
    """Kill this process, as ``kill -9`` does, if ``MMBUILD_FAULT`` names this point (for tests of recovery)."""
    if os.environ.get("MMBUILD_FAULT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
