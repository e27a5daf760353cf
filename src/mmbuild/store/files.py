"""Writing and removing files, for every part of the store. Cheap to import."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or none."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def remove_tree(path: Path) -> None:
    """Remove a directory that holds read-only files."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)
