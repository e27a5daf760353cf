"""Writing and removing files, for every part of the store. Cheap to import."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from threading import get_native_id

_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def write_whole(path: Path, content: bytes, *, owned: bool = False) -> None:
    """Write a file so that readers see all of it or none.

    The temporary file is created, never opened: a link that somebody put at its name is removed, not followed.

    Args:
        path: The file.
        content: Its new content.
        owned: Whether it is a file of the store, so that a directory in its place is damage and goes.

    Raises:
        OSError: It cannot be written.
    """
    fresh = f"{path.parent}/.{path.name}.{get_native_id()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(fresh, flags, 0o666)
    except FileExistsError:  # left by a killed process that had this number
        discard(Path(fresh))
        descriptor = os.open(fresh, flags, 0o666)
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)
    try:
        os.replace(fresh, path)
    except IsADirectoryError:
        if not owned:
            os.unlink(fresh)
            raise
        remove_tree(path)
        os.replace(fresh, path)


def append_line(path: Path, line: bytes) -> None:
    """Add ``line``, which ends with a line feed, with one write: lines of several writers never mix.

    Where a kill left a torn line before it, that ends here; an empty line is no damage. Links are not followed.

    Raises:
        OSError: It cannot be written, or is not a regular file.
    """
    descriptor = os.open(path, _APPEND, 0o666)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"`{path}` is not a regular file")
        whole = found.st_size == 0 or os.pread(descriptor, 1, found.st_size - 1) == b"\n"
        _write_all(descriptor, line if whole else b"\n" + line)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory that holds read-only files, as far as that is possible; of a link, nothing."""
    import shutil

    # On descriptors: a directory that is exchanged for a link meanwhile is not followed.
    shutil.rmtree(path, ignore_errors=True)


def discard(path: Path) -> None:
    """Remove whatever has this name: a file, a pipe, a link (not what it leads to), a directory and all in it."""
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return
    if stat.S_ISDIR(kind):
        remove_tree(path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)


def names_in(directory: Path) -> list[Path]:
    """What a directory holds, sorted; nothing where it is missing, or is a link or a file."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return [directory / name for name in sorted(os.listdir(descriptor))]
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    """One write, so that lines of two writers never mix; a short one means that the disk is full."""
    written = os.write(descriptor, content)
    while written < len(content):
        written += os.write(descriptor, content[written:])
