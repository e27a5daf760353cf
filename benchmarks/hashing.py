"""Hashing many files with all cores, as publishing does, in a warm page cache, best of nine. Beside it `b3sum`
where it is installed, else what `b3sum` does, by the same Rust code in the `blake3` wheel: one file after the other,
mapped into memory and hashed on all cores (`update_mmap`, `max_threads=AUTO`), without the start of a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Row
from mmbuild.core.store.hashing import hash_files

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
        total = files * size / 1e9
        beside, name = _beside(paths)
        rate, other = (total / seconds for seconds in _best(lambda: hash_files(paths), beside))
    return Row(
        f"{files} files of {size / 1e6:g} MB",
        f"{rate:.2f} GB/s",
        f"{name} {other:.2f} GB/s: {rate / other:.2f} of it",
        "0.9",
    )


def _best(*bodies: Callable[[], object]) -> list[float]:
    """Seconds of each, the least of nine runs that take turns: a busy machine is as busy for all of them."""
    times: list[list[float]] = [[] for _ in bodies]
    for _ in range(9):
        for body, found in zip(bodies, times, strict=True):
            begin = time.perf_counter()
            body()
            found.append(time.perf_counter() - begin)
    return [min(found) for found in times]


def _beside(paths: list[Path]) -> tuple[Callable[[], object], str]:
    """What to compare with, and its name."""
    program = shutil.which("b3sum")
    if program is None:
        return lambda: _as_b3sum(paths), "as b3sum does"
    command = [program, *map(str, paths)]
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True), "b3sum"


def _as_b3sum(paths: list[Path]) -> None:
    from blake3 import blake3

    for path in paths:
        blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
