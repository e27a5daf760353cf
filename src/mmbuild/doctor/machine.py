"""GPUs with their driver, host memory with its control group's limit, and free disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmbuild.doctor.model import Check, size_text
from mmbuild.execute.gpus import select
from mmbuild.execute.resources import machine_memory

_SECONDS = 30.0
_LITTLE = 5_000_000_000
_FIELDS = ("uuid", "name", "compute_cap", "driver_version", "memory.total")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver tells it.

    Attributes:
        uuid: Its name for ``CUDA_VISIBLE_DEVICES``.
        name: Its model.
        sm: Compute capability without the dot; None where the driver is too old to tell.
        driver: Version of the driver.
        memory: MiB, as text.
    """

    uuid: str
    name: str
    sm: int | None
    driver: str
    memory: str


def gpus() -> tuple[Gpu, ...] | None:
    """The GPUs that this process may use; None where there is no driver that answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = {gpu.uuid: gpu for gpu in map(_gpu, done.stdout.splitlines()) if gpu is not None}
    return tuple(found[uuid] for uuid in select(tuple(found), os.environ.get("CUDA_VISIBLE_DEVICES")))


def _gpu(line: str) -> Gpu | None:
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(_FIELDS):
        return None
    sm = words[2].replace(".", "")
    return Gpu(words[0], words[1], int(sm) if sm.isdigit() else None, words[3], words[4])


def gpu_checks(found: tuple[Gpu, ...] | None, *, needed: int, sms: frozenset[int]) -> Iterator[Check]:
    """Driver and GPUs.

    Args:
        found: From :func:`gpus`.
        needed: How many a build needs at once; 0 where none does.
        sms: Compute capabilities that recipes state.
    """
    wanted = f"{needed} GPU{'s' if needed > 1 else ''}" if needed else ""
    if not found:
        what = "no NVIDIA driver" if found is None else "a driver, and no GPU that may be used"
        why = "recipes build for CUDA" if needed else ""
        way = (
            "See `nvidia-smi` and CUDA_VISIBLE_DEVICES, or build with `--set target.device=cpu`"
            if needed
            else ""
        )
        yield Check("gpu", "fail" if needed else "ok", what, wanted, why, way)
        return
    yield Check("driver", "ok", found[0].driver)
    for place, gpu in enumerate(found):
        alien = sms and gpu.sm not in sms
        why = f"recipes state SM {', '.join(map(str, sorted(sms)))}, and engines do not move between SMs"
        text = f"{gpu.name}, SM {gpu.sm}, {gpu.memory} MiB"
        yield Check(f"gpu {place}", "warn" if alien else "ok", text, why=why if alien else "")
    if len(found) < needed:
        way = "Build on a machine with more, or lower engine.tensor_parallel; see CUDA_VISIBLE_DEVICES"
        yield Check("gpus", "fail", str(len(found)), wanted, "each rank takes one", way)


def memory_check(needed: int, root: Path = Path("/")) -> Check:
    """Host memory that this process may use, and whether one action needs more.

    Args:
        needed: Bytes of the largest action; 0 where none is known.
        root: Where ``proc`` and ``sys`` lie (tests).
    """
    usable, whole = machine_memory(root), _physical(root)
    found = size_text(usable)
    if usable < whole:
        found += f" (a control group's limit; the machine has {size_text(whole)})"
    if needed <= usable:
        return Check("memory", "ok", found, f"about {size_text(needed)}" if needed else "")
    why = "the largest action is estimated to take so much at once"
    way = "Build on a larger machine, raise the limit of the control group, or try with --ignore-estimates"
    return Check("memory", "fail", found, f"about {size_text(needed)}", why, way)


def _physical(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def disk_check(name: str, path: Path, needed: int) -> Check:
    """Free disk where ``path`` is, or is to be made.

    Args:
        name: What the place is called.
        path: The place.
        needed: Bytes that the missing actions are estimated to write; 0 where that is not known.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    found = f"{size_text(free)} free at {path}"
    if not os.access(there, os.W_OK | os.X_OK):
        way = "Name another place with --store or --build-dir"
        return Check(name, "fail", f"{path} may not be written to", "a place to write to", "", way)
    if needed > free:
        way = "Free some (`mmbuild cache gc`), or use another --store"
        why = "what is missing is estimated to take so much"
        return Check(name, "fail", found, f"about {size_text(needed)}", why, way)
    if not needed and free < _LITTLE:
        why = "a 7B model takes 14 GB, and its engine refers to it"
        return Check(name, "warn", found, "", why, "Free some (`mmbuild cache gc`)")
    return Check(name, "ok", found, f"about {size_text(needed)}" if needed else "")
