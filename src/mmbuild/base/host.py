"""Facts of this machine, read without importing anything heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_ISA = (
    ("avx512", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})),
    ("avx2", frozenset({"avx2", "fma", "f16c"})),
)
"""CPU instruction sets, best first, with the flags of /proc/cpuinfo that each needs."""

_RUNS_ON = {
    "generic": ("generic", "avx2", "avx512", "neon"),
    "avx2": ("avx2", "avx512"),
    "avx512": ("avx512",),
    "neon": ("neon",),
}
"""Code compiled for the left runs on the right."""

_DISTRIBUTIONS = ("torch", "transformers", "tokenizers", "safetensors", "pydantic", "Pillow")


def default_target() -> dict[str, Any]:
    """The target that stands for this host: ``{"device": ..., "sm": int or None, "isa": ...}``.

    A torch wheel for CPUs cannot use a GPU that is there.
    """
    from mmbuild.base import gpu

    sm = None if installed_versions(("torch",)).get("torch", "").endswith("+cpu") else gpu.first_sm()
    return {"device": "cpu" if sm is None else "cuda", "sm": sm, "isa": cpu_isa()}


@lru_cache(maxsize=1)
def cpu_isa() -> str:
    """``avx512``, ``avx2`` or ``generic`` on x86; ``neon`` on ARM."""
    machine = platform_machine()
    if machine in ("aarch64", "arm64"):
        return "neon"
    flags = frozenset(_cpuinfo("flags").split())
    for name, needed in _ISA:
        if needed <= flags:
            return name
    return "generic"


def runs_on(expected: str, here: str) -> bool:
    """Whether code compiled for the instruction set ``expected`` runs on a CPU that has ``here``."""
    return here in _RUNS_ON.get(expected, (expected,))


def installed_versions(names: Iterable[str] = _DISTRIBUTIONS) -> dict[str, str]:
    """Versions of installed distributions from the names of their metadata directories.

    Two orders of magnitude cheaper than ``importlib.metadata``; what is not installed is absent.
    """
    required = {name.lower().replace("-", "_"): name for name in names}
    found: dict[str, str] = {}
    for directory in dict.fromkeys(sys.path):
        try:
            entries = os.listdir(directory or ".")
        except OSError:
            continue
        for entry in entries:
            if not entry.endswith(".dist-info"):
                continue
            name, _, version = entry.removesuffix(".dist-info").partition("-")
            known = required.get(name.lower())
            if known is not None:
                found.setdefault(known, version)
    return found


def facts() -> dict[str, Any]:
    """What a manifest says about the machine; part of no key."""
    import platform

    from mmbuild.base import gpu

    return {
        "name": os.uname().nodename,
        "system": f"{os.uname().sysname} {os.uname().release}",
        "cpu": _cpuinfo("model name"),
        "isa": cpu_isa(),
        "sm": gpu.first_sm(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": installed_versions(),
    }


def platform_machine() -> str:
    """Machine type as ``uname -m`` tells it."""
    return os.uname().machine


def _cpuinfo(name: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return ""


def fingerprint() -> dict[str, Any]:
    """What :func:`default_target` follows from, cheap enough for every start: the driver is not asked."""
    drivers = {}
    base = "/proc/driver/nvidia/gpus"
    if os.path.isdir(base):
        for name in sorted(os.listdir(base)):
            with open(f"{base}/{name}/information", encoding="utf-8", errors="replace") as stream:
                drivers[name] = [line for line in stream if line.startswith(("Model", "GPU UUID"))]
    devices = [path for path in ("/dev/nvidiactl", "/dev/dxg") if os.path.exists(path)]  # dxg: WSL
    return {"isa": cpu_isa(), "gpus": drivers, "driver": devices}


def code_fingerprint() -> list[int]:
    """[files, newest mtime_ns, bytes] of this package: a plan made by other code does not count."""
    count, newest, size = 0, 0, 0
    pending = [os.path.dirname(os.path.dirname(__file__))]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.endswith((".py", ".yaml", ".json", ".j2")):
                    info = entry.stat()
                    count, newest, size = count + 1, max(newest, info.st_mtime_ns), size + info.st_size
                elif "." not in entry.name and entry.name != "__pycache__":
                    pending.append(entry.path)
    return [count, newest, size]
