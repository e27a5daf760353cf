"""Packed weights to numbers in memory, in one pass, for the products of whole prompts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from mmbuild.backends.torch.kernels.configured import ceiling, configured
from mmbuild.backends.torch.kernels.unpack import part_of_word

_BLOCK_N, _BLOCK_W = 4, 128


@triton.jit
def _widen(w_ptr, out_ptr, N, W, BITS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr):
    """w int32 [N, W], number i of word j for input i * W + j -> out [N, W * 32 / BITS]."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    live = (n < N)[:, None] & (j < W)[None, :]
    w = tl.load(w_ptr + n[:, None] * W + j[None, :], live, 0)
    places = out_ptr + n[:, None] * (W * (32 // BITS)) + j[None, :]
    for i in tl.static_range(32 // BITS):
        tl.store(places + i * W, part_of_word(w, i, BITS, out_ptr.dtype.element_ty), live)


@triton_op("mmbuild::widen", mutates_args={})
def widen(weight: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Rows int32 [out, words] of 4 or 8 ``bits`` (``linear.pack_rows``) -> [out, in] in ``dtype``, not scaled."""
    outputs, words = weight.shape
    out = torch.empty(outputs, words * (32 // bits), dtype=dtype, device=weight.device)
    kernel = configured(_widen, 4, 3, BITS=bits, BLOCK_N=_BLOCK_N, BLOCK_W=_BLOCK_W)
    grid = (ceiling(outputs, _BLOCK_N), ceiling(words, _BLOCK_W))
    wrap_triton(kernel)[grid](weight, out, outputs, words)
    return out
