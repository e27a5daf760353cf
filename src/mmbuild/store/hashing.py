"""BLAKE3 of files."""

from __future__ import annotations

from pathlib import Path

_MAPPED = 1 << 20
"""Smaller files are read: mapping them costs more than it saves."""


def hash_file(path: Path | str, threads: int | None = None) -> str:
    """BLAKE3, hex, of a file's bytes; ``threads`` None means all cores (large files only)."""
    from blake3 import blake3

    with open(path, "rb") as stream:
        head = stream.read(_MAPPED)
    if len(head) < _MAPPED:
        return blake3(head).hexdigest()
    hasher = blake3(max_threads=blake3.AUTO if threads is None else threads)
    return hasher.update_mmap(path).hexdigest()
