"""Which files of two directories differ."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mmbuild.core.store.hashing import hash_files


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that is not the same on both sides.

    Attributes:
        path: Below either directory.
        old: Bytes on the first side; None where it is not there.
        new: Bytes on the second side; None where it is not there.
    """

    path: str
    old: int | None
    new: int | None


def file_changes(one: Path, other: Path, apart: Collection[str] = ()) -> list[FileChange]:
    """Files below ``one`` and ``other`` that differ in content, sorted; those named in ``apart`` are left out.

    Links count for what they lead to. Files of one size are read, unless they are one file.

    Raises:
        OSError: One of them cannot be read.
    """
    left, right = (_sizes(side, apart) for side in (one, other))
    same = [path for path in left if left[path] == right.get(path, -1)]
    unsure = [path for path in same if not (one / path).samefile(other / path)]
    digests = [hash_files([side / path for path in unsure]) for side in (one, other)]
    altered = {path for path, a, b in zip(unsure, *digests, strict=True) if a != b}
    changed = {path for path in {*left, *right} if left.get(path) != right.get(path)} | altered
    return [FileChange(path, left.get(path), right.get(path)) for path in sorted(changed)]


def _sizes(directory: Path, apart: Collection[str]) -> dict[str, int]:
    found = {}
    for root, _, names in os.walk(directory, followlinks=True):
        for name in names:
            path = Path(root, name)
            relative = path.relative_to(directory).as_posix()
            if relative not in apart and path.is_file():
                found[relative] = path.stat().st_size
    return found
