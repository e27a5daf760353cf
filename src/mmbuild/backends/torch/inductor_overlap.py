"""Compiles kernels that may start before the kernel before them has ended
(:mod:`mmbuild.backends.torch.kernels.dependent_launch`).

Inductor can make its own kernels wait (``triton.enable_pdl``) where it thinks that they need not wait at their start,
which relies on how the kernels around them wait. Here each waits before anything else, as ours do.

torch finds out which tensors a kernel writes by reading its code, and takes all of them for written where the code
holds an instruction that it does not know, as waiting is one. So it gets to read the code without it, which writes
the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

_FIRST_LINES = ("tl.extra.cuda.gdc_wait()", "tl.extra.cuda.gdc_launch_dependents()")
_WAITS = "EARLY"


@contextmanager
def kernels_wait(*, wanted: bool) -> Iterator[None]:
    """Meanwhile torch reads kernels that wait, and Inductor's begin by waiting, if it is ``wanted``."""
    if not wanted:
        yield
        return
    with _inductors_wait(), _read_without_waiting():
        yield


def _inductors_wait() -> Any:
    from torch._inductor.codegen.triton import TritonKernel

    of_torch = TritonKernel.codegen_static_numels  # the first lines of a kernel's body

    def codegen_static_numels(self: TritonKernel, code: Any) -> None:
        code.writelines(_FIRST_LINES)
        of_torch(self, code)

    return mock.patch.object(TritonKernel, "codegen_static_numels", codegen_static_numels)


def _read_without_waiting() -> Any:
    from torch._higher_order_ops import triton_kernel_wrap

    of_torch = triton_kernel_wrap.generate_ttir

    def generate_ttir(kernel: Any, kwargs: Mapping[str, Any], *rest: Any) -> Any:
        configs = getattr(kernel, "configs", None)
        if configs and _WAITS in configs[0].kwargs:
            kernel, kwargs = kernel.fn, {**kwargs, **configs[0].kwargs, _WAITS: False}
        return of_torch(kernel, kwargs, *rest)

    return mock.patch.object(triton_kernel_wrap, "generate_ttir", generate_ttir)
