"""Writes and removes files safely, for every part of the store. Cheap to import."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from threading import get_native_id

_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def write_whole(path: Path, content: bytes, *, owned: bool = False) -> None:
    """Write a file atomically: readers see either the old or the new content.

    The temporary file is always created: an existing link with its name is removed, not followed.

    Args:
        path: The file.
        content: Its new content.
        owned: Whether the file belongs to the store, so that a directory in its place is damage and is removed.

    Raises:
        OSError: It cannot be written.
    """
    fresh = f"{path.parent}/.{path.name}.{get_native_id()}"
    try:
        _write_and_rename(fresh, path, content, owned=owned)
    except OSError as error:
        error.filename = str(path)  # messages name the file, not the temporary one
        with suppress(AttributeError):  # only the error of a rename has a second name
            del error.filename2
        with suppress(OSError):
            discard(Path(fresh))  # a full disk needs the room
        raise


def _write_and_rename(fresh: str, path: Path, content: bytes, *, owned: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(fresh, flags, 0o666)
    except FileExistsError:  # left by a killed process with the same id
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
    """Append ``line``, which ends with a line feed, in one write: lines from several writers never mix.

    A torn line left by a kill is first ended with a line feed; empty lines are harmless. Links are not followed.

    Raises:
        OSError: It cannot be written, or is not a regular file.
    """
    descriptor = os.open(path, _APPEND, 0o666)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"`{path}` is not a regular file")
        at_line_start = status.st_size == 0 or os.pread(descriptor, 1, status.st_size - 1) == b"\n"
        _write_all(descriptor, line if at_line_start else b"\n" + line)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory with read-only files, ignoring errors; a link is left alone."""
    import shutil

    # rmtree works on descriptors, so a directory replaced by a link in the meantime is not followed.
    shutil.rmtree(path, ignore_errors=True)


def discard(path: Path) -> None:
    """Remove anything with this name: a file, a pipe, a link (not its target), or a directory with its contents."""
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
    """Return the sorted paths in a directory; empty if it is missing, a link or a file."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return [directory / name for name in sorted(os.listdir(descriptor))]
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    """Write in one call, so that lines from two writers never mix; a short write means that the disk is full."""
    written = os.write(descriptor, content)
    while written < len(content):
        written += os.write(descriptor, content[written:])
