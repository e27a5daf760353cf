"""GPUs as resources shared by every mmbuild on the machine: one lock for each UUID."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmbuild.core.store.locks import FileLock, try_lock


def try_lock_gpus(
    uuids: Sequence[str], count: int, directory: Path | None = None
) -> dict[str, FileLock] | None:
    """Lock ``count`` of ``uuids`` across processes; None, and nothing held, where fewer are free."""
    held: dict[str, FileLock] = {}
    for uuid in uuids:
        if len(held) == count:
            break
        lock = try_lock((directory or _lock_directory()) / f"{uuid}.lock")
        if lock is not None:
            held[uuid] = lock
    if len(held) == count:
        return held
    for lock in held.values():
        lock.release()
    return None


def _lock_directory() -> Path:
    """One for all users of the machine, since a GPU is one for all of them."""
    path = Path(tempfile.gettempdir()) / "mmbuild-gpus"
    try:
        path.mkdir()
        path.chmod(0o1777)
    except FileExistsError:
        pass
    return path
