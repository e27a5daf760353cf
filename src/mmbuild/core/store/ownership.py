"""The store's own directories and files: real ones, and of nobody who could not write the store as a whole.

A link in their place would have a sweep delete, and an append write, somebody else's files. Who may write the root of
a store can do with it what they like, so a store is only for people who trust each other: one user, or a group.
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
    """Check what a store consists of; make again what is missing of its ``directories``.

    Args:
        root: The store.
        directories: Names of its directories.
        files: Names of files that need not be there.

    Raises:
        MmbuildError: MM320 a link or another kind of file in the place of one, MM321 one that others may change,
            MM301, MM302 a missing one cannot be made.
    """
    found = os.stat(root)
    _check_writers(root, found, found)
    for name in directories:
        _check_directory(root, name, found)
    for name in files:
        _check_file(root, name)


def require_directory(path: Path) -> None:
    """Make the directory ``path`` of a store where it is missing, with the permissions of its parent and the umask.

    So the members of a group that owns a store may all write in what one of them makes.

    Raises:
        MmbuildError: MM320 something else is in its place.
        OSError: It cannot be made.
    """
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process was first
            os.mkdir(path, os.stat(path.parent).st_mode & 0o775)
        kind = os.lstat(path).st_mode
    if not stat.S_ISDIR(kind):
        raise _misplaced(path, "directory")


def _check_directory(root: Path, name: str, top: os.stat_result) -> None:
    path = f"{root}/{name}"
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        with disk_errors(root):
            require_directory(Path(path))
        return
    if not stat.S_ISDIR(found.st_mode):
        raise _misplaced(Path(path), "directory")
    _check_writers(Path(path), found, top)


def _check_file(root: Path, name: str) -> None:
    path = f"{root}/{name}"
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise _misplaced(Path(path), "regular file")


def _check_writers(path: Path, found: os.stat_result, top: os.stat_result) -> None:
    """Others may write ``path`` only if the mode of the store's root, ``top``, says so."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise _open_to_others(path, "everybody may write it")
    shared = bool(top.st_mode & stat.S_IWGRP)
    if found.st_uid not in (os.geteuid(), 0, top.st_uid) and not shared:
        raise _open_to_others(path, f"it belongs to user {found.st_uid}, who does not own the store")
    if mode & stat.S_IWGRP and not shared:
        raise _open_to_others(path, "a group may write it, and the rest of the store only one user")


def _misplaced(path: Path, kind: str) -> MmbuildError:
    leads = f"a link to `{os.readlink(path)}`" if path.is_symlink() else "something else"
    return MmbuildError(
        f"`{path}` of the store is {leads}, not a {kind}",
        code="MM320",
        hint=f"nothing was changed; find out who made it, then remove `{path}`, or give another store with `--store`",
    )


def _open_to_others(path: Path, why: str) -> MmbuildError:
    return MmbuildError(
        f"`{path}` is not used as a store: {why}",
        code="MM321",
        hint=f"`chmod go-w {path}` if it is yours; `mmbuild explain MM321` says how a team shares a store",
    )
