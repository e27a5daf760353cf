"""GPUs as the driver reports them: none, several, hidden ones, and drivers that do not answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from mmbuild.base import gpu
from mmbuild.base.gpu import Gpu, first_sm, gpus, least_memory, visible_gpus
from support.toolchain import fake_pynvml
from support.toolchain.fake_pynvml import A10, H200


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    gpus.cache_clear()


def test_gpus_are_in_the_drivers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pynvml.install(monkeypatch, H200, A10)
    assert visible_gpus() == (
        Gpu("GPU-aaaa", "NVIDIA H200", 90, "580.95.05", 143771 << 20),
        Gpu("GPU-bbbb", "NVIDIA A10", 86, "580.95.05", 23028 << 20),
    )
    assert (first_sm(), least_memory(gpus())) == (90, 23028 << 20)


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        ("1", ["GPU-bbbb"]),
        ("1,0", ["GPU-bbbb", "GPU-aaaa"]),
        ("GPU-b", ["GPU-bbbb"]),
        ("0,7,1", ["GPU-aaaa"]),
        ("", []),
        ("-1", []),
        ("MIG-41b35e5f-92d3-5f54-a7d8-9b9b3a6a3a5c", []),
    ],
)
def test_hidden_gpus_are_not_there(monkeypatch: pytest.MonkeyPatch, visible: str, uuids: list[str]) -> None:
    fake_pynvml.install(monkeypatch, H200, A10)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [found.uuid for found in visible_gpus() or ()] == uuids
    assert first_sm() == (
        None if visible in ("", "-1") else 90
    )  # a part of a GPU has the capability of the whole


def test_a_driver_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pynvml.install(monkeypatch)
    assert (visible_gpus(), first_sm(), least_memory(gpus())) == ((), None, 0)


@pytest.mark.parametrize("fault", ["library", "lost", "hangs"])
def test_without_an_answering_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(gpu, "_SECONDS", 0.1 if fault == "hangs" else 30)
    fake_pynvml.install(monkeypatch, H200, fault=fault)
    assert (visible_gpus(), first_sm(), least_memory(gpus())) == (None, None, 0)


def test_what_a_driver_does_not_support_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pynvml.install(monkeypatch, {**H200, "cap": None, "mib": None}, A10)
    assert [(found.sm, found.memory) for found in gpus() or ()] == [(None, 0), (86, 23028 << 20)]
    assert least_memory(gpus()) == 23028 << 20


def test_the_real_library_is_called_by_its_own_names() -> None:
    """NVML's Python package has every function of the fake."""
    names = "import pynvml; print(' '.join(name for name in dir(pynvml) if name.lower().startswith('nvml')))"
    done = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True)
    stand_in = (fake_pynvml.SITE / "pynvml.py").read_text("utf-8")
    called = {line.split("(")[0].removeprefix("def ") for line in stand_in.splitlines() if "def nvml" in line}
    assert called | {"NVMLError"} <= set(done.stdout.split())


def test_the_driver_is_not_queried_for_the_version() -> None:
    program = (
        "import sys; sys.argv = ['mmbuild', '--version']\n"
        "from mmbuild.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(' '.join({'pynvml', 'mmbuild.base.gpu'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
