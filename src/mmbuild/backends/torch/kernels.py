"""Triton kernels for decoding one sequence: matrix-vector products at memory bandwidth.

A matrix-vector product reads every weight once and computes almost nothing, so loads must be wide and unpacking
cheap. Weights are stored by rows ([out, in], see ``backends/torch/linear.py``). A program processes whole rows, so
there are no partial sums to combine, and results do not depend on timing. Packed integers are read as 32-bit words
and converted to floats through their bit patterns: with b in the top mantissa bits, ``2^e * (1 + b / 2^bits)`` is
``2^e + b``. That takes one shift and one logic operation instead of a conversion at a quarter of the rate. The offset
is subtracted once per row, times the sum of x.
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
    # A single configuration, so that nothing is timed at build time.
    return triton.autotune(configs=[triton.Config(blocks, num_warps=warps)], key=[])(kernel)


# Keyed by whether a row fills wide blocks. The wide ones are a common choice for all layers of a 7B LLaMA: among the
# fastest on an H200, but not the fastest for each layer. The narrow ones, for small models, were run but not timed.
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


_WORD = 4


@triton.jit
def _awq_rows(
    x_ptr,
    w_ptr,
    scale_ptr,
    out_ptr,
    P,
    W,
    G,
    PER_GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """x [4, W] (input 4j + i at [i, j]), w bytes [P, 4 * W], scale [2 * P, G], PER_GROUP words -> out [2 * P].

    Byte i of word j holds input 4j + i of two outputs, the even one in the low nibble. A nibble with its sign bit
    flipped in bits 19 to 22 of a float in [16, 32) is 24 + its signed value.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < P
    words = w_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    even = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    odd = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    for offset in range(0, W, BLOCK_W):
        j = offset + tl.arange(0, BLOCK_W)
        live = j < W
        both = inside[:, None] & live[None, :]
        w = tl.load(words + n[:, None] * W + j[None, :], both, 0)
        places = scale_ptr + 2 * n[:, None] * G + (j // PER_GROUP)[None, :]
        scale_even = tl.load(places, both, 0.0).to(tl.float32)
        scale_odd = tl.load(places + G, both, 0.0).to(tl.float32)
        total = tl.zeros((BLOCK_W,), tl.float32)
        low = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
        high = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
        for i in tl.static_range(4):
            x = tl.load(x_ptr + i * W + j, live, 0.0).to(tl.float32)
            total += x
            first = (w << (19 - 8 * i)) if i < 3 else (w >> (8 * i - 19))
            second = (w << (15 - 8 * i)) if i < 2 else (w >> (8 * i - 15))
            low += x[None, :] * ((first & 0x00780000) ^ 0x41C00000).to(tl.float32, bitcast=True)
            high += x[None, :] * ((second & 0x00780000) ^ 0x41C00000).to(tl.float32, bitcast=True)
        even += (low - 24.0 * total[None, :]) * scale_even
        odd += (high - 24.0 * total[None, :]) * scale_odd
    tl.store(out_ptr + 2 * n, tl.sum(even, 1).to(out_ptr.dtype.element_ty), inside)
    tl.store(out_ptr + 2 * n + 1, tl.sum(odd, 1).to(out_ptr.dtype.element_ty), inside)


@triton.jit
def _smoothquant_rows(x_ptr, w_ptr, out_ptr, N, W, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr):
    """x bytes [4 * W], w bytes [N, 4 * W] -> out int32 [N], exact: four products of bytes in one instruction."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inputs = x_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    words = w_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    acc = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    for offset in range(0, W, BLOCK_W):
        j = offset + tl.arange(0, BLOCK_W)
        live = j < W
        x = tl.broadcast_to(tl.load(inputs + j, live, 0)[None, :], (BLOCK_N, BLOCK_W))
        w = tl.load(words + n[:, None] * W + j[None, :], (n < N)[:, None] & live[None, :], 0)
        acc = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [w, x, acc], dtype=tl.int32, is_pure=True, pack=1
        )
    tl.store(out_ptr + n, tl.sum(acc, 1), n < N)


@triton.jit
def _float8_rows(x_ptr, w_ptr, out_ptr, N, K, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """x float16 [K], w float8_e4m3fn [N, K] -> out float32 [N]; float16 holds every float8."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for offset in range(0, K, BLOCK_K):
        k = offset + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + k, k < K, 0.0).to(tl.float32)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], (n < N)[:, None] & (k < K)[None, :], 0.0)
        acc += x[None, :] * w.to(tl.float16).to(tl.float32)
    tl.store(out_ptr + n, tl.sum(acc, 1), n < N)


# Keyed by whether a row fills wide blocks; the narrow ones are for small models.
_ROWS = {"awq": 4, "int8": 4, "float8": 4}
_WIDE_INPUTS = 2048
_AWQ = {
    True: tuned(_awq_rows, 4, BLOCK_N=4, BLOCK_W=512),
    False: tuned(_awq_rows, 1, BLOCK_N=4, BLOCK_W=64),
}
_INT8 = {
    True: tuned(_smoothquant_rows, 4, BLOCK_N=4, BLOCK_W=512),
    False: tuned(_smoothquant_rows, 1, BLOCK_N=4, BLOCK_W=128),
}
_FLOAT8 = {
    True: tuned(_float8_rows, 4, BLOCK_N=4, BLOCK_K=2048),
    False: tuned(_float8_rows, 1, BLOCK_N=4, BLOCK_K=128),
}


@triton_op("mmbuild::awq_rows", mutates_args={})
def awq_rows(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [in] (scaled), weight int8 [out / 2, in], scale [out, in / group] -> [out] in x's dtype.

    A group must be a whole number of words (4 inputs each).
    """
    pairs, inputs = weight.shape
    words, groups = inputs // _WORD, scale.shape[1]
    out = torch.empty(2 * pairs, dtype=x.dtype, device=x.device)
    parts = x.view(words, _WORD).t().contiguous()
    grid = (triton.cdiv(pairs, _ROWS["awq"]),)
    kernel = _AWQ[inputs >= _WIDE_INPUTS]
    wrap_triton(kernel)[grid](parts, weight, scale, out, pairs, words, groups, words // groups)
    return out


@triton_op("mmbuild::int8_rows", mutates_args={})
def int8_rows(x: Tensor, weight: Tensor) -> Tensor:
    """x int8 [in], weight int8 [out, in] -> int32 [out]."""
    outputs, inputs = weight.shape
    out = torch.empty(outputs, dtype=torch.int32, device=x.device)
    grid = (triton.cdiv(outputs, _ROWS["int8"]),)
    wrap_triton(_INT8[inputs >= _WIDE_INPUTS])[grid](x, weight, out, outputs, inputs // _WORD)
    return out


@triton_op("mmbuild::float8_rows", mutates_args={})
def float8_rows(x: Tensor, weight: Tensor) -> Tensor:
    """x float16 [in], weight float8_e4m3fn [out, in] -> float32 [out]."""
    outputs, inputs = weight.shape
    out = torch.empty(outputs, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(outputs, _ROWS["float8"]),)
    wrap_triton(_FLOAT8[inputs >= _WIDE_INPUTS])[grid](x, weight, out, outputs, inputs)
    return out
