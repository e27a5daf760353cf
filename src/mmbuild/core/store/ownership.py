"""Checks types and permissions of the store's own directories and files.

Each must be real, and writable only by users who may write to the store as a whole. Through a link, a sweep would
delete, and an append would write, someone else's files. Anyone who can write to a store's root has full control over
it, so a store is only for people who trust each other: one user or a group.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.disk_errors import disk_errors


def check_layout(root: Path, directories: Iterable[str], files: Iterable[str]) -> None:
    """Check the store's directories and files; create missing ``directories``.

    Args:
        root: The store.
        directories: Names of its directories.
        files: Names of its files, which may be missing.

    Raises:
        MmbuildError: MM320, a link or another type of file is in the place of one; MM321, others may change one;
            MM301 or MM302, a missing directory cannot be created.
    """
    status = os.stat(root)
    _check_writers(root, status, status)
    for name in directories:
        _check_directory(root, name, status)
    for name in files:
        _check_file(root, name)


def require_directory(path: Path) -> None:
    """Create the directory ``path`` of a store if missing, with its parent's permissions minus the umask.

    This way all members of a group that owns a store can write to a directory that one of them creates.

    Raises:
        MmbuildError: MM320, the path is not a directory.
        OSError: It cannot be created.
    """
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process created it
            os.mkdir(path, os.stat(path.parent).st_mode & 0o775)
        kind = os.lstat(path).st_mode
    if not stat.S_ISDIR(kind):
        raise _misplaced(path, "directory")


def _check_directory(root: Path, name: str, top: os.stat_result) -> None:
    path = f"{root}/{name}"
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        with disk_errors(root):
            require_directory(Path(path))
        return
    if not stat.S_ISDIR(status.st_mode):
        raise _misplaced(Path(path), "directory")
    _check_writers(Path(path), status, top)


def _check_file(root: Path, name: str) -> None:
    path = f"{root}/{name}"
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise _misplaced(Path(path), "regular file")


def _check_writers(path: Path, status: os.stat_result, top: os.stat_result) -> None:
    """Refuse ``path`` if others can write to it, unless the mode of the store's root, ``top``, allows that."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise _open_to_others(path, "everyone can write to it")
    shared = bool(top.st_mode & stat.S_IWGRP)
    if status.st_uid not in (os.geteuid(), 0, top.st_uid) and not shared:
        raise _open_to_others(path, f"it belongs to user {status.st_uid}, who does not own the store")
    if mode & stat.S_IWGRP and not shared:
        raise _open_to_others(path, "a group can write to it, but only one user to the rest of the store")


def _misplaced(path: Path, kind: str) -> MmbuildError:
    actual = f"a link to `{os.readlink(path)}`" if path.is_symlink() else "something else"
    return MmbuildError(
        f"`{path}` in the store is {actual}, not a {kind}",
        code="MM320",
        hint=f"nothing was changed; find out who created it, then remove `{path}`, "
        "or give another store with `--store`",
    )


def _open_to_others(path: Path, reason: str) -> MmbuildError:
    return MmbuildError(
        f"`{path}` is not used as a store: {reason}",
        code="MM321",
        hint=f"run `chmod go-w {path}` if it is yours; `mmbuild explain MM321` says how a team shares a store",
    )
