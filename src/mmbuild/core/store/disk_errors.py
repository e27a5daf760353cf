"""Failures of the disk as messages, and the points where tests kill the process."""

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


def translate(error: OSError, where: Path) -> MmbuildError | None:
    """The message for a disk that is full or not ours, or None for any other failure."""
    path = error.filename or where
    if error.errno in _FULL:
        return MmbuildError(
            f"no space left while writing `{path}` ({os.strerror(error.errno)})",
            code="MM302",
            hint="free some space (`mmbuild cache gc`), or give another store with `--store`; "
            "finished actions are kept",
        )
    if error.errno in _DENIED:
        return MmbuildError(
            f"may not write `{path}` ({os.strerror(error.errno)})",
            code="MM301",
            hint="give a directory of your own with `--store` or `--build-dir`",
        )
    return None


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full disk or missing rights inside the block into an :class:`MmbuildError`."""
    try:
        yield
    except OSError as error:
        reported = translate(error, where)
        if reported is None:
            raise
        raise reported from error


def fault_point(name: str) -> None:
    """Die here, as by ``kill -9``, when ``MMBUILD_FAULT`` names this point (for tests of recovery)."""
    if os.environ.get("MMBUILD_FAULT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
