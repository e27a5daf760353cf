"""GPUs with their driver, host memory with its control group's limit, and free disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmbuild.base.checks import Check, size_text
from mmbuild.base.gpu import Gpu
from mmbuild.core.execution.resources import machine_memory

_LITTLE = 5_000_000_000


def gpu_checks(found: tuple[Gpu, ...] | None, *, needed: int, sms: frozenset[int]) -> Iterator[Check]:
    """Driver and GPUs.

    Args:
        found: From :func:`mmbuild.base.gpu.visible_gpus`.
        needed: How many a build needs at once; 0 where none does.
        sms: Compute capabilities that recipes state.
    """
    expected = f"{needed} GPU{'s' if needed > 1 else ''}" if needed else ""
    if not found:
        what = "no NVIDIA driver" if found is None else "a driver, and no GPU that may be used"
        why = "recipes build for CUDA" if needed else ""
        way = (
            "See `nvidia-smi` and CUDA_VISIBLE_DEVICES, or build with `--set target.device=cpu`"
            if needed
            else ""
        )
        yield Check("gpu", "fail" if needed else "ok", what, expected, why, way)
        return
    yield Check("driver", "ok", found[0].driver)
    for place, gpu in enumerate(found):
        alien = sms and gpu.sm not in sms
        why = f"recipes state SM {', '.join(map(str, sorted(sms)))}, and engines do not move between SMs"
        text = f"{gpu.name}, SM {gpu.sm}, {gpu.memory >> 20} MiB"
        yield Check(f"gpu {place}", "warn" if alien else "ok", text, why=why if alien else "")
    if len(found) < needed:
        way = "Build on a machine with more, or lower engine.tensor_parallel; see CUDA_VISIBLE_DEVICES"
        yield Check("gpus", "fail", str(len(found)), expected, "each rank takes one", way)


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
