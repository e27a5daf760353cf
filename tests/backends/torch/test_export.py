"""Compiler options of engines, by what the installed torch has."""

from types import SimpleNamespace

import pytest
import torch._inductor.config as installed

from mmbuild.backends.torch.export import inductor_options

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
