"""Checks of GPUs and driver, host memory (with the cgroup limit) and free disk space."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmbuild.base.checks import Check
from mmbuild.base.gpu import Gpu
from mmbuild.core.execution.resources import machine_memory

_LITTLE = 5_000_000_000


def gpu_checks(gpus: tuple[Gpu, ...] | None, *, needed: int, sms: frozenset[int]) -> Iterator[Check]:
    """Checks of the driver and the GPUs.

    Args:
        gpus: From :func:`mmbuild.base.gpu.visible_gpus`.
        needed: Number of GPUs a build needs at once; 0 if none.
        sms: Compute capabilities set in recipes.
    """
    expected = f"{needed} GPU{'s' if needed > 1 else ''}" if needed else ""
    if not gpus:
        state = "no NVIDIA driver" if gpus is None else "a driver, but no usable GPU"
        why = "recipes build for CUDA" if needed else ""
        hint = (
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or build with `--set target.device=cpu`"
            if needed
            else ""
        )
        yield Check("gpu", "fail" if needed else "ok", state, expected, why, hint)
        return
    yield Check("driver", "ok", gpus[0].driver)
    for index, gpu in enumerate(gpus):
        mismatch = sms and gpu.sm not in sms
        why = f"recipes set SM {', '.join(map(str, sorted(sms)))}, and engines only run on the SM they are built for"
        text = f"{gpu.name}, SM {gpu.sm}, {gpu.memory >> 20} MiB"
        yield Check(f"gpu {index}", "warn" if mismatch else "ok", text, why=why if mismatch else "")
    if len(gpus) < needed:
        hint = (
            "build on a machine with more GPUs, or lower engine.tensor_parallel; check CUDA_VISIBLE_DEVICES"
        )
        yield Check("gpus", "fail", str(len(gpus)), expected, "each rank needs one", hint)


def memory_check(needed: int, root: Path = Path("/")) -> Check:
    """Host memory available to this process, and whether it is enough for the largest action.

    Args:
        needed: Bytes of the largest action; 0 if unknown.
        root: Directory with ``proc`` and ``sys`` (for tests).
    """
    usable, physical = machine_memory(root), _physical(root)
    state = _size_text(usable)
    if usable < physical:
        state += f" (a control group's limit; the machine has {_size_text(physical)})"
    if needed <= usable:
        return Check("memory", "ok", state, f"about {_size_text(needed)}" if needed else "")
    why = "estimated for the largest action"
    hint = "build on a larger machine, raise the limit of the control group, or try with --ignore-estimates"
    return Check("memory", "fail", state, f"about {_size_text(needed)}", why, hint)


def _physical(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def disk_check(name: str, path: Path, needed: int) -> Check:
    """Free disk space at ``path``, which may not exist yet.

    Args:
        name: Name of the check.
        path: The directory.
        needed: Estimated bytes written by the missing actions; 0 if unknown.
    """
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    state = f"{_size_text(free)} free at {path}"
    if not os.access(existing, os.W_OK | os.X_OK):
        hint = "choose another directory with --store or --build-dir"
        return Check(name, "fail", f"{path} is not writable", "a writable directory", "", hint)
    if needed > free:
        hint = "free some space (`mmbuild cache gc`), or use another --store"
        why = "estimated for the missing actions"
        return Check(name, "fail", state, f"about {_size_text(needed)}", why, hint)
    if not needed and free < _LITTLE:
        why = "a 7B model takes 14 GB, and its engine refers to it"
        return Check(name, "warn", state, "", why, "free some space (`mmbuild cache gc`)")
    return Check(name, "ok", state, f"about {_size_text(needed)}" if needed else "")


def _size_text(count: float) -> str:
    """Format a number of bytes, such as ``1.5 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
