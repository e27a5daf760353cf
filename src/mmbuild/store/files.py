"""Writing and removing files, for every part of the store. Cheap to import."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or none."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def append_line(path: Path, line: bytes) -> None:
    """Add ``line``, which ends with a line feed, with one write: lines of several writers never mix.

    Where a kill left a torn line before it, that ends here; an empty line is no damage.

    Raises:
        OSError: It cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _write_all(descriptor, line if _ends_whole(descriptor) else b"\n" + line)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory that holds read-only files."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _ends_whole(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _write_all(descriptor: int, line: bytes) -> None:
    """One write, so that lines of two writers never mix; a short one means that the disk is full."""
    written = os.write(descriptor, line)
    while written < len(line):
        written += os.write(descriptor, line[written:])
