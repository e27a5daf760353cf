"""Hashing many files with all cores, as publishing does, in a warm page cache; `b3sum` beside it where it is
installed, else one-pass BLAKE3 of the same bytes already in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.report import Row, command_seconds
from mmbuild.store.hashing import hash_file

SHAPES = ((2000, 20_000), (8, 128_000_000))
"""(files, bytes each): a tree of small files, and the shards of a model."""


def measure() -> list[Row]:
    """One row for each shape."""
    return [_measure(files, size) for files, size in SHAPES]


def _measure(files: int, size: int) -> Row:
    with tempfile.TemporaryDirectory() as base:
        paths = []
        block = os.urandom(size)
        for number in range(files):
            path = Path(base) / f"f{number}"
            path.write_bytes(number.to_bytes(8, "little") + block[8:])
            paths.append(path)
        _all(paths)
        begin = time.perf_counter()
        _all(paths)
        seconds = time.perf_counter() - begin
        rate = files * size / seconds / 1e9
        other, name = _beside(paths, block, files)
    return Row(
        f"{files} files of {size / 1e6:g} MB",
        f"{rate:.2f} GB/s",
        f"{name} {other:.2f} GB/s: {rate / other:.2f} of it",
        "0.9",
    )


def _all(paths: list[Path]) -> None:
    for path in paths:
        hash_file(path)


def _beside(paths: list[Path], block: bytes, files: int) -> tuple[float, str]:
    from blake3 import blake3

    program = shutil.which("b3sum")
    if program is not None:
        seconds = command_seconds([program, *map(str, paths)], repeat=3)
        return files * len(block) / seconds / 1e9, "b3sum"
    begin = time.perf_counter()
    for _ in range(files):
        blake3(block, max_threads=blake3.AUTO).digest()
    return files * len(block) / (time.perf_counter() - begin) / 1e9, "BLAKE3 in memory"
