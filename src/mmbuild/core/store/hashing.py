"""BLAKE3 digests of files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmbuild.base.files import open_regular

_MAPPED = 1 << 20
"""Files of at least this many bytes are memory-mapped; for smaller ones, mapping costs more than it saves."""

_WORTH_A_THREAD = 1 << 18
"""Total bytes below which starting threads costs more than they save."""


def hash_file(path: Path | str, threads: int | None = None) -> str:
    """Return the BLAKE3 digest (hex) of a file; ``threads`` None means all cores (large files only).

    Raises:
        OSError: It cannot be read.
        FileRefusedError: MM745, it is not a regular file.
    """
    from blake3 import blake3

    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size < _MAPPED:
            return blake3(_read_all(descriptor, size)).hexdigest()
    finally:
        os.close(descriptor)
    return blake3(max_threads=blake3.AUTO if threads is None else threads).update_mmap(path).hexdigest()


def hash_files(paths: Sequence[Path | str], threads: int | None = None) -> list[str]:
    """Return :func:`hash_file` of each file, on ``threads`` (None: all cores).

    Small files are hashed in parallel, since reading and hashing both release the interpreter lock; large files are
    hashed one after another, each on all threads.

    Raises:
        OSError: A file cannot be read.
        FileRefusedError: MM745, a file is not a regular file.
    """
    sizes = [os.stat(path).st_size for path in paths]
    small = [index for index, size in enumerate(sizes) if size < _MAPPED]
    count = threads or len(os.sched_getaffinity(0))
    if count < 2 or sum(sizes[index] for index in small) < _WORTH_A_THREAD:
        return [hash_file(path, threads) for path in paths]
    from concurrent.futures import (
        ThreadPoolExecutor,
    )  # imported late: takes 4 ms, and most commands do not need it

    shares = [small[start::count] for start in range(count)]
    digests: dict[int, str] = {}
    with ThreadPoolExecutor(count) as pool:
        for share, hashes in zip(shares, pool.map(partial(_hash_share, paths), shares), strict=True):
            digests.update(zip(share, hashes, strict=True))
    return [digests.get(index) or hash_file(path, threads) for index, path in enumerate(paths)]


def _hash_share(paths: Sequence[Path | str], share: Sequence[int]) -> list[str]:
    return [hash_file(paths[index]) for index in share]


def _read_all(descriptor: int, size: int) -> bytes:
    """Read the whole file; ``size`` is the size just measured, which may have changed since."""
    first = os.read(descriptor, size + 1)
    if len(first) == size:
        return first
    parts = [first]
    while part := os.read(descriptor, _MAPPED):
        parts.append(part)
    return b"".join(parts)
