"""Compiler options of engines, by what the installed torch has and what the target's CPUs have in common."""

from types import SimpleNamespace

import pytest
import torch
import torch._inductor.config as installed
from torch._inductor.cpu_vec_isa import VecAVX512

from mmbuild.backends.torch.export import _vector_isas, inductor_options

CPU = {"device": "cpu", "sm": None, "isa": "avx2"}
CUDA = {"device": "cuda", "sm": 90, "isa": None}


def config(cpp, aot):
    """An Inductor configuration with these options and no others."""
    return SimpleNamespace(
        deterministic=False,
        cpp=SimpleNamespace(**dict.fromkeys(cpp)),
        aot_inductor=SimpleNamespace(**dict.fromkeys(aot)),
    )


AOT = ("compile_wrapper_opt_level",)
OF_2_11 = config(("simdlen", "dynamic_threads"), AOT)


def test_an_option_missing_in_torch_2_11_is_omitted():
    found = inductor_options(CPU, OF_2_11)
    assert found == {
        "cpp.dynamic_threads": True,
        "cpp.simdlen": 256,
    }


def test_a_gpu_needs_no_option_that_torch_2_11_lacks():
    assert inductor_options(CUDA, OF_2_11) == inductor_options(CUDA)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
def test_the_installed_torch_has_every_option_of_its_cpu(isa):
    assert "cpp.march" in inductor_options({**CPU, "isa": isa}, installed)


def test_an_engine_for_avx512_holds_no_bfloat16_instructions(monkeypatch):
    """Inductor adds them on a machine that has them, and only to the first package of a process."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(VecAVX512, "check_build", lambda *_: True)
    for _ in range(2):
        (isa,) = _vector_isas({**CPU, "isa": "avx512"})
        assert isa
        assert isa.build_arch_flags() == VecAVX512._arch_flags
        assert not isa.is_avx512_bf16_supported()


def test_packages_are_compiled_without_line_tables():
    assert inductor_options(CPU)["aot_inductor.enable_line_tables"] is False
