"""Resources of this machine within its control group, and whether a plan fits into them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import Action, Resources

_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Capacity:
    """Resources available to the scheduler.

    Attributes:
        cores: CPU cores.
        memory: Host memory, bytes.
        gpus: UUIDs of the GPUs.
        gpu_memory: Memory of the smallest GPU, bytes; 0 if unknown.
        jobs: Maximum number of concurrent actions.
    """

    cores: int
    memory: int
    gpus: tuple[str, ...] = field(default=())
    jobs: int = 1
    gpu_memory: int = 0


def machine_cores(root: Path = Path("/")) -> int:
    """Return the number of cores this process may use, by CPU affinity and the CPU quota of its control group."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cpu_quota(root)
    return max(1, min(allowed, quota) if quota else allowed)


def machine_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory this process may use: the machine's memory or the control group's limit."""
    total = _UNLIMITED
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    return min([total, *_cgroup_memory(root)])


def check_fits(
    actions: Iterable[Action], capacity: Capacity, store: Path, *, ignore_estimates: bool = False
) -> None:
    """Refuse, before anything starts, actions that need more than this machine has.

    Raises:
        MmbuildError: MM312 memory, MM313 disk, MM314 GPUs, MM317 GPU memory.
    """
    todo = list(actions)
    for action in todo:
        if action.resources.gpus > len(capacity.gpus):
            raise MmbuildError(
                f"`{action.label}` needs {action.resources.gpus} GPU(s),"
                f" {len(capacity.gpus)} can be used here",
                code="MM314",
                hint="check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or set `target.device: cpu`",
            )
    if ignore_estimates:
        return
    for action in todo:
        if action.resources.memory > capacity.memory:
            raise MmbuildError(
                f"`{action.label}` needs about {_size(action.resources.memory)} of memory,"
                f" this machine (or its control group) has {_size(capacity.memory)}",
                code="MM312",
                hint="build on a larger machine, or try anyway with `--ignore-estimates`",
            )
        if 0 < capacity.gpu_memory < action.resources.gpu_memory:
            raise MmbuildError(
                f"`{action.label}` needs about {_size(action.resources.gpu_memory)} of GPU memory,"
                f" a GPU here has {_size(capacity.gpu_memory)}",
                code="MM317",
                hint="build on a larger GPU, split the engine with `engine.tensor_parallel`,"
                " or try anyway with `--ignore-estimates`",
            )
    needed = sum(action.resources.disk for action in todo)
    free = shutil.disk_usage(store).free
    if needed > free:
        raise MmbuildError(
            f"the plan needs about {_size(needed)} of disk, `{store}` has {_size(free)} free",
            code="MM313",
            hint="free some space (`mmbuild cache gc`), use another `--store`,"
            " or try anyway with `--ignore-estimates`",
        )


def grant(resources: Resources, capacity: Capacity) -> Resources:
    """Return ``resources`` limited to what exists: an estimate above the machine's capacity takes all of it."""
    return Resources(
        cores=max(1, min(resources.cores, capacity.cores)),
        memory=min(resources.memory, capacity.memory),
        disk=resources.disk,
        gpus=resources.gpus,
        gpu_memory=resources.gpu_memory,
        seconds=resources.seconds,
        gpu_shared=resources.gpu_shared,
    )


def _cgroup_paths(root: Path) -> dict[str, str]:
    """Map each controller to the path of this process's group (version 2 under the empty name)."""
    paths = {}
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for controller in controllers.split(","):
            paths[controller] = path.strip("/")
    return paths


def _ancestors(base: Path, path: str) -> list[Path]:
    """Return ``base/path`` and its parents up to ``base``: a limit on any of them applies."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return [base.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _cgroup_memory(root: Path) -> list[int]:
    paths = _cgroup_paths(root)
    base = root / "sys/fs/cgroup"
    files = [group / "memory.max" for group in _ancestors(base, paths.get("", ""))]
    files += [
        group / "memory.limit_in_bytes" for group in _ancestors(base / "memory", paths.get("memory", ""))
    ]
    texts = [(_read(path) or "").strip() for path in files]
    return [int(text) for text in texts if text.isdigit()]


def _cpu_quota(root: Path) -> int | None:
    paths = _cgroup_paths(root)
    base = root / "sys/fs/cgroup"
    quotas: list[float] = []
    for group in _ancestors(base, paths.get("", "")):
        words = (_read(group / "cpu.max") or "").split()
        if len(words) == 2 and words[0].isdigit():
            quotas.append(int(words[0]) / int(words[1]))
    for group in _ancestors(base / "cpu", paths.get("cpu", "")):
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return max(1, int(min(quotas))) if quotas else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
