"""Compatibility checks with engines and hosts of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.tensorrt_llm import compatibility as tensorrt_llm
from mmbuild.backends.torch.compatibility import HostFacts, compatibility
from mmbuild.base.checks import Check
from mmbuild.base.gpu import Gpu

CPU = Description(
    family="llava",
    backend="torch",
    llm={"tensor_parallel": 1},
    visual={},
    target={"device": "cpu", "sm": None, "isa": "avx2"},
    toolchain={"torch": "2.13.0"},
    image_token_id=None,
    eos_token_ids=(),
)
CUDA = replace(CPU, target={"device": "cuda", "sm": 90, "isa": "avx2"}, toolchain={"torch": "2.11.0+cu130"})
TRTLLM = replace(
    CPU,
    backend="tensorrt-llm",
    llm={"tensor_parallel": 2},
    target={"device": "cuda", "sm": 90, "isa": None},
    toolchain={
        "tensorrt-llm": "0.9.0",
        "tensorrt_llm": "0.9.0",
        "tensorrt": "9.3.0.post12.dev1",
        "python": "3.10.14",
    },
)
INSIDE = {"python": "3.10.14", "tensorrt-llm": "0.9.0", "tensorrt": "9.3.0.post12.dev1"}


def gpu(number: int, sm: int = 90, driver: str = "580.95.05") -> Gpu:
    return Gpu(f"GPU-{number}", "NVIDIA", sm, driver, 1 << 20)


def checks(
    description: Description, here: HostFacts, visual: Mapping[str, Any] | None = None
) -> dict[str, Check]:
    return {item.name: item for item in compatibility(description, here, visual)}


def checks_of_toolchain(
    description: Description, gpus: tuple[Gpu, ...], inside: Mapping[str, str] | None
) -> dict[str, Check]:
    return {item.name: item for item in tensorrt_llm.compatibility(description, gpus, inside)}


def statuses(found: Mapping[str, Check]) -> dict[str, str]:
    return {name: item.status for name, item in found.items()}


@pytest.mark.parametrize(
    ("isa", "here", "status"),
    [
        ("avx2", "avx2", "ok"),
        ("avx2", "avx512", "ok"),
        ("avx512", "avx2", "fail"),
        ("generic", "neon", "ok"),
        ("neon", "avx512", "fail"),
        ("rvv", "rvv", "ok"),
        ("rvv", "avx2", "fail"),
    ],
)
def test_code_for_a_cpu(isa: str, here: str, status: str) -> None:
    description = replace(CPU, target={"device": "cpu", "sm": None, "isa": isa})
    assert checks(description, HostFacts(None, here, "2.13.0"))["cpu"].status == status


@pytest.mark.parametrize(
    ("torch", "status"), [("2.13.0+cpu", "ok"), ("2.13.0+cu130", "ok"), ("2.13.1", "fail"), (None, "fail")]
)
def test_a_package_loads_in_the_torch_that_compiled_it(torch: str | None, status: str) -> None:
    found = checks(CPU, HostFacts(None, "avx512", torch))
    assert found["torch"].status == status
    assert set(found) == {"torch", "cpu"}


def test_a_cuda_engine_needs_its_sm_and_a_driver() -> None:
    assert statuses(checks(CUDA, HostFacts((gpu(0),), "avx2", "2.11.0"))) == {
        "torch": "ok",
        "gpu": "ok",
        "driver": "ok",
    }
    other = checks(CUDA, HostFacts((gpu(0, sm=89),), "avx2", "2.11.0"))
    assert (other["gpu"].status, other["gpu"].required, other["gpu"].found) == (
        "fail",
        "SM 90, exactly",
        "SM 89",
    )
    old = checks(CUDA, HostFacts((gpu(0, driver="575.57.08"),), "avx2", "2.11.0"))
    assert (old["driver"].status, old["driver"].required) == ("fail", "580 or newer")
    assert "CUDA 13" in old["driver"].why
    none = checks(CUDA, HostFacts(None, "avx2", "2.11.0"))
    assert (none["gpu"].found, none["driver"].status) == ("no driver", "fail")


def test_an_unrecorded_cuda_version_stays_unknown() -> None:
    description = replace(CUDA, toolchain={"torch": "2.11.0"})
    assert checks(description, HostFacts((gpu(0),), "avx2", "2.11.0"))["driver"].status == "unknown"


def test_a_toolchain_engine_on_its_own_host() -> None:
    found = checks_of_toolchain(TRTLLM, (gpu(0), gpu(1)), INSIDE)
    assert statuses(found) == dict.fromkeys(["tensorrt-llm", "tensorrt", "gpu", "ranks", "driver"], "ok")
    assert found["driver"].required == "525 or newer"


def test_too_few_matching_gpus_for_its_ranks() -> None:
    found = checks_of_toolchain(TRTLLM, (gpu(0), gpu(1, sm=80)), INSIDE)
    assert (found["gpu"].status, found["ranks"].status) == ("ok", "fail")
    assert found["ranks"].found == "1 matching"


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ({**INSIDE, "tensorrt": "9.2.0.5"}, ("ok", "fail")),
        ({**INSIDE, "tensorrt-llm": "0.9.1"}, ("fail", "ok")),
        ({"python": "3.10.14"}, ("fail", "fail")),
        (None, ("fail", "unknown")),
    ],
)
def test_another_environment(inside: Mapping[str, str] | None, expected: tuple[str, str]) -> None:
    found = checks_of_toolchain(TRTLLM, (gpu(0), gpu(1)), inside)
    assert (found["tensorrt-llm"].status, found["tensorrt"].status) == expected


def test_tensorrt_under_its_other_name() -> None:
    toolchain = {"tensorrt-llm": "0.12.0", "tensorrt_llm": "0.12.0", "tensorrt_cu12": "10.1.0"}
    inside = {"tensorrt-llm": "0.12.0", "tensorrt": "10.1.0"}
    found = checks_of_toolchain(replace(TRTLLM, toolchain=toolchain), (gpu(0),), inside)
    assert found["tensorrt"].status == "ok"


def test_unrecorded_versions_stay_unknown() -> None:
    bare = replace(
        TRTLLM, toolchain={"tensorrt-llm": "1.2"}, target={"device": "cuda", "sm": None, "isa": None}
    )
    found = checks_of_toolchain(bare, (gpu(0), gpu(1)), INSIDE)
    assert statuses(found) == {
        "tensorrt-llm": "unknown",
        "tensorrt": "unknown",
        "gpu": "unknown",
        "ranks": "ok",
        "driver": "ok",
    }


@pytest.mark.parametrize(
    ("tensorrt", "sm", "expected"),
    [
        ("8.6.0", 90, ("ok", "ok")),
        ("8.6.0.post1", 90, ("ok", "ok")),
        ("8.6.1", 90, ("fail", "ok")),
        (None, 80, ("fail", "fail")),
    ],
)
def test_a_tensorrt_visual_engine_with_torch(
    tensorrt: str | None, sm: int, expected: tuple[str, str]
) -> None:
    here = HostFacts((gpu(0, sm=sm),), "avx2", "2.11.0", tensorrt)
    found = checks(CUDA, here, {"version": "8.6.0", "sm": 90})
    assert (found["tensorrt (visual)"].status, found["gpu (visual)"].status) == expected
