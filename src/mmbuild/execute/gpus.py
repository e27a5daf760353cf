"""GPUs as resources shared by every mmbuild on the machine: one lock for each UUID."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmbuild import host
from mmbuild.store.locks import Lock, try_lock


def visible_gpus(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """UUIDs of the GPUs that this process may use, in the driver's order; empty without a driver.

    An inherited ``CUDA_VISIBLE_DEVICES`` is honoured: indices, UUIDs and unique beginnings of UUIDs.
    """
    given = os.environ if environment is None else environment
    return select(_driver_gpus(), given.get("CUDA_VISIBLE_DEVICES"))


def smallest_memory(uuids: Sequence[str]) -> int:
    """Bytes of memory of the GPU of ``uuids`` that has least; 0 where the driver does not say."""
    rows = [row.split(", ") for row in _asked("uuid,memory.total")]
    sizes = [int(row[1].removesuffix(" MiB")) << 20 for row in rows if len(row) == 2 and row[0] in uuids]
    return min(sizes, default=0)


def select(uuids: Sequence[str], visible: str | None) -> tuple[str, ...]:
    """The part of ``uuids`` that ``CUDA_VISIBLE_DEVICES=visible`` leaves.

    As in CUDA, an entry that names no GPU, or one already named, ends the list.
    """
    if visible is None:
        return tuple(uuids)
    chosen: list[str] = []
    for word in (part.strip() for part in visible.split(",")):
        if word.isdigit() and int(word) < len(uuids):
            found = [uuids[int(word)]]
        else:
            found = [uuid for uuid in uuids if word and uuid.startswith(word)]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return tuple(chosen)


def try_take(uuids: Sequence[str], count: int, directory: Path | None = None) -> dict[str, Lock] | None:
    """Lock ``count`` of ``uuids`` across processes; None, and nothing held, where fewer are free."""
    held: dict[str, Lock] = {}
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


def _driver_gpus() -> tuple[str, ...]:
    return _asked("uuid")


def _asked(fields: str) -> tuple[str, ...]:
    """Lines of the driver's answer; none without a driver."""
    program = host.driver_program()
    if program is None:
        return ()
    try:
        shown = subprocess.run(
            [program, f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in shown.stdout.splitlines() if line.strip())
