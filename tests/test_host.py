"""What this machine says of itself, with a driver's program of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild import host


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("echo 81559; echo 40960", 40960 << 20), ("echo '[N/A]'", 0), ("exit 9", 0), ("true", 0)],
)
def test_the_gpu_with_least_memory_counts_and_a_driver_that_does_not_say_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: int
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    host.gpu_memory.cache_clear()
    assert host.gpu_memory() == expected
    host.gpu_memory.cache_clear()


def test_a_machine_without_a_driver_has_no_memory_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    host.gpu_memory.cache_clear()
    assert host.gpu_memory() == 0
    host.gpu_memory.cache_clear()
