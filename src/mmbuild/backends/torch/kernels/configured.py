"""How kernels are launched: one configuration each, chosen beforehand, so that nothing is timed at build time."""

from __future__ import annotations

from functools import cache
from typing import Any

import triton


@cache
def configured(kernel: Any, warps: int, stages: int, /, **constants: float) -> Any:
    """A kernel with its constants. The same object for the same choice, so that Inductor compiles it once."""
    config = triton.Config(constants, num_warps=warps, num_stages=stages)
    return triton.autotune(configs=[config], key=[])(kernel)


def ceiling(size: int, block: int) -> int:
    """Blocks that cover ``size``, which may be symbolic."""
    return (size + block - 1) // block
