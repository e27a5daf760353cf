"""Directories for what g++ and the loader take as code."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def private_directory(directory: Path) -> Path | None:
    """``directory``, created if it is missing; None if it cannot be, or if another user could write to it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(directory)
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return directory if private else None
