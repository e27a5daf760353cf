"""The lowest driver for an engine's CUDA version."""

from __future__ import annotations

import pytest

from mmbuild.backends.compatibility import lowest_driver
from mmbuild.backends.tensorrt_llm.compatibility import cuda_of
from mmbuild.backends.tensorrt_llm.toolchains.gpu_formats import tables
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED


@pytest.mark.parametrize(
    ("versions", "cuda"),
    [
        ({"torch": "2.11.0+cu130"}, 13),
        ({"torch": "2.6.0+cu118"}, 11),
        ({"torch": "2.3.0a0+40ec155e58.nv24.3"}, None),
        ({"torch": "2.13.0+cpu"}, None),
        ({"tensorrt-llm": "0.10.0", "tensorrt_cu12": "10.0.1"}, 12),
        ({"tensorrt-llm": "0.10.0"}, None),
        ({"tensorrt-llm": "0.9.0"}, 12),
        ({"tensorrt-llm": "1.2", "torch": "2.9.0"}, 13),
        ({"tensorrt-llm": "1.2", "torch": "2.9.0+cu128"}, 12),
        ({"a_cu12": "1", "b_cu13": "1"}, None),
        ({}, None),
    ],
)
def test_cuda_of_a_build(versions: dict[str, str], cuda: int | None) -> None:
    found = cuda_of(versions)
    assert (found and found[0]) == cuda


def test_lowest_drivers_rise_with_cuda_and_unknown_stays_unknown() -> None:
    floors = [lowest_driver(cuda) for cuda in (11, 12, 13)]
    assert floors == ["450", "525", "580"]
    assert lowest_driver(14) is None


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_cuda_of_a_version_agrees_with_its_pins(version: str) -> None:
    cuda = tables(version).cuda
    if cuda is not None:
        named = {name for name in load_toolchain(version).pins if "-cu" in name}
        assert all(name.endswith(f"-cu{cuda.version}") for name in named)
        assert cuda.evidence
