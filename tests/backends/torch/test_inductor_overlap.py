"""While packages for CUDA are compiled, Inductor's kernels begin by waiting, and torch reads ours without it."""

from types import SimpleNamespace

from torch._higher_order_ops import triton_kernel_wrap
from torch._inductor.codegen.triton import TritonKernel
from torch._inductor.utils import IndentedBuffer

from mmbuild.backends.torch.inductor_overlap import kernels_wait


def test_kernels_wait_before_their_first_statement(monkeypatch):
    monkeypatch.setattr(TritonKernel, "codegen_static_numels", lambda _, code: code.writeline("xnumel = 3"))
    code = IndentedBuffer()
    with kernels_wait(wanted=True):
        TritonKernel.codegen_static_numels(None, code)
    assert code.getvalue().splitlines() == [
        "tl.extra.cuda.gdc_wait()",
        "tl.extra.cuda.gdc_launch_dependents()",
        "xnumel = 3",
    ]


def read(monkeypatch, kernel, *, wanted=True):
    """What torch reads of a kernel."""
    monkeypatch.setattr(triton_kernel_wrap, "generate_ttir", lambda *given: given)
    with kernels_wait(wanted=wanted):
        return triton_kernel_wrap.generate_ttir(kernel, {"x": 1}, {})


def test_torch_reads_a_kernel_that_waits_as_one_that_does_not(monkeypatch):
    kernel = SimpleNamespace(fn="function", configs=[SimpleNamespace(kwargs={"EARLY": True, "BLOCK": 8})])
    assert read(monkeypatch, kernel) == ("function", {"x": 1, "EARLY": False, "BLOCK": 8}, {})


def test_other_kernels_are_read_as_they_are(monkeypatch):
    for kernel in (
        SimpleNamespace(fn="f", configs=[SimpleNamespace(kwargs={"BLOCK": 8})]),
        SimpleNamespace(),
    ):
        assert read(monkeypatch, kernel) == (kernel, {"x": 1}, {})


def test_nothing_changes_where_it_is_not_wanted(monkeypatch):
    kernel = SimpleNamespace(fn="function", configs=[SimpleNamespace(kwargs={"EARLY": True})])
    assert read(monkeypatch, kernel, wanted=False) == (kernel, {"x": 1}, {})


def test_torch_has_what_is_replaced():
    assert callable(TritonKernel.codegen_static_numels)
    assert callable(triton_kernel_wrap.generate_ttir)
