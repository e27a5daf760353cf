"""Checks of GPUs, memory and disk, with control groups written into a directory."""

from __future__ import annotations

from pathlib import Path

from mmbuild.base.checks import Check, failed_checks
from mmbuild.base.gpu import Gpu
from mmbuild.inspect.doctor.hardware import disk_check, gpu_checks, memory_check

H200 = Gpu("GPU-aaaa", "NVIDIA H200", 90, "580.95.05", 143771 << 20)
A10 = Gpu("GPU-bbbb", "NVIDIA A10", 86, "580.95.05", 23028 << 20)


def checks(found: tuple[Gpu, ...] | None, needed: int = 0, sms: frozenset[int] = frozenset()) -> list[Check]:
    return list(gpu_checks(found, needed=needed, sms=sms))


def test_missing_driver_fails_if_a_gpu_is_needed() -> None:
    (item,) = checks(None)
    assert (item.status, item.found) == ("ok", "no NVIDIA driver")
    (item,) = checks(None, needed=2)
    assert (item.status, item.required) == ("fail", "2 GPUs")
    (item,) = checks((), needed=1)
    assert item.status == "fail"


def test_too_few_gpus() -> None:
    assert failed_checks(checks((H200,), needed=1)) == ()
    (item,) = failed_checks(checks((H200,), needed=2))
    assert (item.found, item.required) == ("1", "2 GPUs")


def test_gpu_of_another_architecture_than_in_the_recipes() -> None:
    found = checks((H200, A10), sms=frozenset({90}))
    assert [item.status for item in found] == ["ok", "ok", "warn"]
    assert found[1].found == "NVIDIA H200, SM 90, 143771 MiB"


def machine(root: Path, total_kib: int, limit: int | None) -> Path:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "sys/fs/cgroup/job").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {total_kib} kB\n", "ascii")
    (root / "proc/self/cgroup").write_text("0::/job\n", "ascii")
    (root / "sys/fs/cgroup/job/memory.max").write_text("max\n" if limit is None else f"{limit}\n", "ascii")
    return root


def test_memory_of_the_machine(tmp_path: Path) -> None:
    root = machine(tmp_path, 64_000_000, None)
    assert memory_check(0, root) == Check("memory", "ok", "65.5 GB")
    assert memory_check(60 * 10**9, root).status == "ok"
    assert memory_check(70 * 10**9, root).status == "fail"


def test_limit_of_a_control_group_applies(tmp_path: Path) -> None:
    item = memory_check(30 * 10**9, machine(tmp_path, 64_000_000, 16 * 10**9))
    assert item.status == "fail"
    assert item.found == "16.0 GB (a control group's limit; the machine has 65.5 GB)"
    assert item.required == "about 30.0 GB"


def test_disk_of_a_directory_that_does_not_exist_yet(tmp_path: Path) -> None:
    item = disk_check("store", tmp_path / "a" / "b", 0)
    assert item.status in ("ok", "warn")  # as much as this machine happens to have
    assert str(tmp_path / "a" / "b") in item.found
    short = disk_check("store", tmp_path, 10**18)
    assert (short.status, short.required) == ("fail", "about 1000000000.0 GB")
