"""vLLM's products of int4 weights in groups of 128, for ``benchmarks.kernels_cuda``: random weights and scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

GROUP = 128
_COLD = 4e8

Calls = Sequence[Callable[[], Any]]


def copies(size: int) -> int:
    """How many weights of ``size`` bytes are multiplied in turn, so that none is left in the L2 cache."""
    return max(4, int(_COLD / size))


def vllm_products() -> Mapping[str, Callable[[Tensor, int], Calls]]:
    """By name: what makes the calls of a product for inputs float16 [rows, K] and a number of outputs.

    Empty where vLLM cannot be imported.
    """
    try:
        from vllm import _custom_ops as ops
        from vllm.scalar_type import scalar_types
    except ImportError:
        return {}
    kind = scalar_types.uint4b8
    return {"Marlin": partial(_marlin, ops, kind), "Machete": partial(_machete, ops, kind)}


def _random(shape: tuple[int, int]) -> Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32, device="cuda")


def _scales(inputs: int, outputs: int) -> Tensor:
    return torch.rand(inputs // GROUP, outputs, dtype=torch.float16, device="cuda")


def _marlin(ops: Any, kind: Any, x: Tensor, outputs: int) -> Calls:
    """Marlin's weights are tiles of 16 inputs; any bits are weights."""
    inputs = x.shape[1]
    workspace = torch.zeros(1024, dtype=torch.int32, device="cuda")
    scales = _scales(inputs, outputs)
    rest = {
        **dict.fromkeys(("c", "b_bias", "a_scales", "global_scale", "b_zeros", "g_idx", "perm")),
        "workspace": workspace,
        "b_q_type": kind,
        "size_m": x.shape[0],
        "size_n": outputs,
        "size_k": inputs,
        "is_k_full": True,
        "use_atomic_add": False,
        "use_fp32_reduce": True,
        "is_zp_float": False,
    }
    weights = [_random((inputs // 16, outputs * 2)) for _ in range(copies(inputs * outputs // 2))]
    return [partial(ops.marlin_gemm, a=x, b_q_weight=one, b_scales=scales, **rest) for one in weights]


def _machete(ops: Any, kind: Any, x: Tensor, outputs: int) -> Calls:
    """Machete reorders weights of eight inputs an int32, column after column."""
    inputs = x.shape[1]
    scales = _scales(inputs, outputs)
    weights = [
        ops.machete_prepack_B(_random((outputs, inputs // 8)).t(), x.dtype, kind, x.dtype)
        for _ in range(copies(inputs * outputs // 2))
    ]
    return [
        partial(ops.machete_mm, a=x, b_q=one, b_type=kind, b_group_scales=scales, b_group_size=GROUP)
        for one in weights
    ]
