"""Facts about this machine, collected without heavy imports."""

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
"""CPU instruction sets, best first, with their flags in /proc/cpuinfo."""

_RUNS_ON = {
    "generic": ("generic", "avx2", "avx512", "neon"),
    "avx2": ("avx2", "avx512"),
    "avx512": ("avx512",),
    "neon": ("neon",),
}
"""Instruction set of compiled code -> CPUs that run it."""

_DISTRIBUTIONS = ("torch", "transformers", "tokenizers", "safetensors", "pydantic", "Pillow")


def default_target() -> dict[str, Any]:
    """Return the target for this host: ``{"device": ..., "sm": int or None, "isa": ...}``.

    The device is ``cpu`` if torch is a CPU build, which cannot use an existing GPU.
    """
    from mmbuild.base import gpu

    sm = None if installed_versions(("torch",)).get("torch", "").endswith("+cpu") else gpu.first_sm()
    return {"device": "cpu" if sm is None else "cuda", "sm": sm, "isa": cpu_isa()}


@lru_cache(maxsize=1)
def cpu_isa() -> str:
    """Return ``avx512``, ``avx2`` or ``generic`` on x86; ``neon`` on ARM."""
    machine = platform_machine()
    if machine in ("aarch64", "arm64"):
        return "neon"
    flags = frozenset(_cpuinfo("flags").split())
    for name, needed in _ISA:
        if needed <= flags:
            return name
    return "generic"


def runs_on(expected: str, here: str) -> bool:
    """Return whether code compiled for the instruction set ``expected`` runs on a CPU with ``here``."""
    return here in _RUNS_ON.get(expected, (expected,))


def installed_versions(names: Iterable[str] = _DISTRIBUTIONS) -> dict[str, str]:
    """Return the versions of installed distributions, from the names of their metadata directories.

    Two orders of magnitude cheaper than ``importlib.metadata``. Missing distributions are left out.
    """
    required = {name.lower().replace("-", "_"): name for name in names}
    versions: dict[str, str] = {}
    for directory in dict.fromkeys(sys.path):
        try:
            entries = os.listdir(directory or ".")
        except OSError:
            continue
        for entry in entries:
            if not entry.endswith(".dist-info"):
                continue
            name, _, version = entry.removesuffix(".dist-info").partition("-")
            distribution = required.get(name.lower())
            if distribution is not None:
                versions.setdefault(distribution, version)
    return versions


def facts() -> dict[str, Any]:
    """Return facts about the machine for manifests; not part of any key."""
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
    """Return the machine type, as ``uname -m`` prints it."""
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
    """Return the inputs of :func:`default_target`, cheaply enough for every start: without querying the driver."""
    drivers = {}
    base = "/proc/driver/nvidia/gpus"
    if os.path.isdir(base):
        for name in sorted(os.listdir(base)):
            with open(f"{base}/{name}/information", encoding="utf-8", errors="replace") as stream:
                drivers[name] = [line for line in stream if line.startswith(("Model", "GPU UUID"))]
    devices = [path for path in ("/dev/nvidiactl", "/dev/dxg") if os.path.exists(path)]  # dxg: WSL
    return {"isa": cpu_isa(), "gpus": drivers, "driver": devices}


def code_fingerprint() -> list[int]:
    """Return [number of files, newest mtime_ns, bytes] of this package, to invalidate plans made by other code."""
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
