"""Triton kernels for decoding one sequence: matrix times one vector, at the speed of memory.

One row against a weight matrix reads every weight once and computes almost nothing, so what counts is that
loads are wide and unpacking is cheap. Weights lie row by row ([out, in], see ``backends/torch/weight_layouts.py``); a
program takes a few whole rows, so there are no partial sums to add up and results do not depend on timing. Packed
integers are read as 32-bit words and turned to floats by their bit patterns alone: with b in the top mantissa bits,
``2^e * (1 + b / 2^bits)`` is ``2^e + b``, one shift and one logic operation instead of a conversion at a quarter of
the rate. What the pattern adds is subtracted once per row, times the sum of x.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit
def _int4_rows(x_ptr, w_ptr, scale_ptr, out_ptr, N, W, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr):
    """x [8 * W], w int32 [N, W], nibble i of word j for x[i * W + j], scale [N] -> out [N]."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < N
    acc = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    total = tl.zeros((BLOCK_W,), tl.float32)
    for offset in range(0, W, BLOCK_W):
        j = offset + tl.arange(0, BLOCK_W)
        live = j < W
        w = tl.load(w_ptr + n[:, None] * W + j[None, :], inside[:, None] & live[None, :], 0)
        # 16 + (nibble ^ 8) = 24 + signed value: bits 19..22 of a float in [16, 32).
        for i in tl.static_range(8):
            x = tl.load(x_ptr + i * W + j, live, 0.0).to(tl.float32)
            total += x
            bits = (w << (19 - 4 * i)) if i < 5 else (w >> (4 * i - 19))
            acc += x[None, :] * ((bits & 0x00780000) ^ 0x41C00000).to(tl.float32, bitcast=True)
    y = tl.sum(acc, 1) - 24.0 * tl.sum(total, 0)
    scale = tl.load(scale_ptr + n, inside, 0.0).to(tl.float32)
    tl.store(out_ptr + n, (y * scale).to(out_ptr.dtype.element_ty), inside)


@triton.jit
def _int8_rows(x_ptr, w_ptr, scale_ptr, out_ptr, N, W, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr):
    """x [4 * W], w int32 [N, W], byte i of word j for x[i * W + j], scale [N] -> out [N]."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < N
    acc = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    total = tl.zeros((BLOCK_W,), tl.float32)
    for offset in range(0, W, BLOCK_W):
        j = offset + tl.arange(0, BLOCK_W)
        live = j < W
        w = tl.load(w_ptr + n[:, None] * W + j[None, :], inside[:, None] & live[None, :], 0)
        # 256 + (byte ^ 128) = 384 + signed value: bits 15..22 of a float in [256, 512).
        for i in tl.static_range(4):
            x = tl.load(x_ptr + i * W + j, live, 0.0).to(tl.float32)
            total += x
            bits = (w << (15 - 8 * i)) if i < 2 else (w >> (8 * i - 15))
            acc += x[None, :] * ((bits & 0x007F8000) ^ 0x43C00000).to(tl.float32, bitcast=True)
    y = tl.sum(acc, 1) - 384.0 * tl.sum(total, 0)
    scale = tl.load(scale_ptr + n, inside, 0.0).to(tl.float32)
    tl.store(out_ptr + n, (y * scale).to(out_ptr.dtype.element_ty), inside)


@triton.jit
def _float_rows(x_ptr, w_ptr, out_ptr, N, K, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """x [K], w [N, K] -> out [N]."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for offset in range(0, K, BLOCK_K):
        k = offset + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + k, k < K, 0.0).to(tl.float32)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], (n < N)[:, None] & (k < K)[None, :], 0.0)
        acc += w.to(tl.float32) * x[None, :]
    tl.store(out_ptr + n, tl.sum(acc, 1).to(out_ptr.dtype.element_ty), n < N)


def tuned(kernel: Any, warps: int, **blocks: int) -> Any:
    """A kernel with one choice of warps and block sizes."""
    # One configuration: nothing is timed when a package is built.
    return triton.autotune(configs=[triton.Config(blocks, num_warps=warps)], key=[])(kernel)


# By whether a row fills wide blocks. The wide ones are one choice for all layers of a 7B LLaMA, among the fastest of
# those tried on an H200 but not the fastest for each; the narrow ones, for small models, were run and never timed.
_ROWS_PER_PROGRAM = {"integer": 4, "float": 2}
_INTEGER = {
    ("W4A16", True): tuned(_int4_rows, 4, BLOCK_N=4, BLOCK_W=512),
    ("W4A16", False): tuned(_int4_rows, 1, BLOCK_N=4, BLOCK_W=128),
    ("W8A16", True): tuned(_int8_rows, 4, BLOCK_N=4, BLOCK_W=512),
    ("W8A16", False): tuned(_int8_rows, 1, BLOCK_N=4, BLOCK_W=128),
}
_FLOAT = {
    True: tuned(_float_rows, 8, BLOCK_N=2, BLOCK_K=2048),
    False: tuned(_float_rows, 1, BLOCK_N=2, BLOCK_K=128),
}


@triton_op("mmbuild::integer_rows", mutates_args={})
def integer_rows(x: Tensor, weight: Tensor, scale: Tensor, quant_algo: str) -> Tensor:
    """x [in], rows int32 [out, words] of ``W8A16`` or ``W4A16``, scale [out] -> [out] in x's dtype."""
    outputs, words = weight.shape
    out = torch.empty(outputs, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(outputs, _ROWS_PER_PROGRAM["integer"]),)
    kernel = _INTEGER[quant_algo, words >= 512]
    wrap_triton(kernel)[grid](x, weight, scale, out, outputs, words)
    return out


@triton_op("mmbuild::float_rows", mutates_args={})
def float_rows(x: Tensor, weight: Tensor) -> Tensor:
    """x [in], weight [out, in] -> [out] in x's dtype, accumulated in float32."""
    outputs, inputs = weight.shape
    out = torch.empty(outputs, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(outputs, _ROWS_PER_PROGRAM["float"]),)
    wrap_triton(_FLOAT[inputs >= 2048])[grid](x, weight, out, outputs, inputs)
    return out
