"""Attention of one new token per sequence to its live slots of the caches, which its own key and value join first.

Slots are divided into parts, so that few sequences use the whole GPU. A program handles the heads that share keys in
one part of one sequence; the one whose part holds the new slot writes it. Another kernel joins the parts. Only live
slots are read: sequences may have any lengths.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from mmbuild.backends.torch.kernels import starts_early
from mmbuild.backends.torch.kernels.configured import ceiling, configured
from mmbuild.backends.torch.kernels.dependent_launch import let_next_start, wait_for_previous


@triton.jit
def _numbers(
    sum_ptr,
    row_factor_ptr,
    factor_ptr,
    bias_ptr,
    row,
    rows,
    column,
    live,
    dtype: tl.constexpr,
    WIDTH: tl.constexpr,
    SUMS: tl.constexpr,
    BY_ROW: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    BIASED: tl.constexpr,
):
    """Numbers ``column`` of a row of a product (``linear.joined`` and its biases) in ``dtype``."""
    place = row * WIDTH + column
    total = tl.load(sum_ptr + place, live, 0)
    for part in tl.static_range(1, SUMS):
        total += tl.load(sum_ptr + part * rows * WIDTH + place, live, 0)
    wide = total.to(tl.float32)
    if BY_ROW:
        wide = wide * tl.load(row_factor_ptr).to(tl.float32)
    if BY_COLUMN:
        wide = wide * tl.load(factor_ptr + column, live, 0.0).to(tl.float32)
    result = wide.to(dtype)
    if BIASED:
        result = (result.to(tl.float32) + tl.load(bias_ptr + column, live, 0.0).to(tl.float32)).to(dtype)
    return result


@triton.jit
def _rotated(
    sum_ptr,
    row_factor_ptr,
    factor_ptr,
    bias_ptr,
    cos_ptr,
    sin_ptr,
    row,
    rows,
    start,
    d,
    live,
    dtype: tl.constexpr,
    D: tl.constexpr,
    ROTARY: tl.constexpr,
    WIDTH: tl.constexpr,
    SUMS: tl.constexpr,
    BY_ROW: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    BIASED: tl.constexpr,
):
    """Numbers ``d`` of heads whose first number is ``start``, rotated as ``positions.rotate`` does."""
    x = _numbers(
        sum_ptr, row_factor_ptr, factor_ptr, bias_ptr, row, rows, start + d, live,
        dtype, WIDTH, SUMS, BY_ROW, BY_COLUMN, BIASED,
    )  # fmt: skip
    if ROTARY:
        first = d < D // 2
        partner = tl.where(first, d + D // 2, d - D // 2)
        other = _numbers(
            sum_ptr, row_factor_ptr, factor_ptr, bias_ptr, row, rows, start + partner, live,
            dtype, WIDTH, SUMS, BY_ROW, BY_COLUMN, BIASED,
        ).to(tl.float32)  # fmt: skip
        cos = tl.load(cos_ptr + row * D + d, d < D, 0.0).to(tl.float32)
        sin = tl.load(sin_ptr + row * D + d, d < D, 0.0).to(tl.float32)
        x = (x.to(tl.float32) * cos + tl.where(first, -other, other) * sin).to(dtype)
    return x


@triton.jit
def _attend(
    qkv_ptr,
    row_factor_ptr,
    factor_ptr,
    bias_ptr,
    cos_ptr,
    sin_ptr,
    k_ptr,
    v_ptr,
    position_ptr,
    sum_ptr,
    top_ptr,
    weight_ptr,
    ROW_STRIDE,
    SLOTS,
    PARTS,
    SCALE: tl.constexpr,
    GROUP: tl.constexpr,
    KV: tl.constexpr,
    D: tl.constexpr,
    ROTARY: tl.constexpr,
    SUMS: tl.constexpr,
    BY_ROW: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    BIASED: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    PART: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The product of queries, keys and values [SUMS, B, (KV * GROUP + 2 * KV) * D], its factors [B] and [columns],
    biases [columns], cosines and sines [B, D], caches [B, KV, SLOTS, D], positions int64 [B] -> the new slots of the
    caches; for each part the sums of weighted values float32 [B, KV * GROUP, PARTS, D]; the largest scores and the
    sums of weights, float32 [B, KV * GROUP, PARTS] each.

    Scores are to the base 2: SCALE includes its logarithm.
    """
    sequence, part = tl.program_id(0) // KV, tl.program_id(1)
    wait_for_previous(EARLY)
    position = tl.load(position_ptr + sequence)
    first = part * PART
    if (position < SLOTS - 1) & (first <= position):
        width: tl.constexpr = (GROUP + 2) * KV * D
        dtype: tl.constexpr = k_ptr.dtype.element_ty
        g, d = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D)
        own = (g < GROUP)[:, None] & (d < D)[None, :]
        head = (tl.program_id(0) * GROUP + g).to(tl.int64)
        cache = tl.program_id(0).to(tl.int64) * SLOTS * D
        kv, rows = tl.program_id(0) % KV, tl.num_programs(0) // KV
        row_factor = row_factor_ptr + sequence * ROW_STRIDE
        last = tl.minimum(first + PART, position + 1)
        if position < first + PART:
            new = cache + position * D + d
            k = _rotated(
                qkv_ptr, row_factor, factor_ptr, bias_ptr, cos_ptr, sin_ptr, sequence, rows,
                (GROUP * KV + kv) * D, d, d < D, dtype, D, ROTARY, width, SUMS, BY_ROW, BY_COLUMN, BIASED,
            )  # fmt: skip
            v = _numbers(
                qkv_ptr, row_factor, factor_ptr, bias_ptr, sequence, rows,
                ((GROUP + 1) * KV + kv) * D + d, d < D, dtype, width, SUMS, BY_ROW, BY_COLUMN, BIASED,
            )  # fmt: skip
            tl.store(k_ptr + new, k, d < D)
            tl.store(v_ptr + new, v, d < D)
            tl.debug_barrier()  # other threads read them
        if GROUP == 1:  # without the numbers of the other rows, of which there are none
            q = _rotated(
                qkv_ptr, row_factor, factor_ptr, bias_ptr, cos_ptr, sin_ptr, sequence, rows,
                kv * D, d, d < D, dtype, D, ROTARY, width, SUMS, BY_ROW, BY_COLUMN, BIASED,
            )  # fmt: skip
            q = tl.where(own, q[None, :], 0.0).to(dtype)
        else:
            q = _rotated(
                qkv_ptr, row_factor, factor_ptr, bias_ptr, cos_ptr, sin_ptr, sequence, rows,
                (kv * GROUP + g[:, None]) * D, d[None, :], own,
                dtype, D, ROTARY, width, SUMS, BY_ROW, BY_COLUMN, BIASED,
            )  # fmt: skip
        top = tl.full((BLOCK_G,), float("-inf"), tl.float32)
        weight = tl.zeros((BLOCK_G,), tl.float32)
        acc = tl.zeros((BLOCK_G, BLOCK_D), tl.float32)
        for offset in range(first, last, BLOCK_S):
            s = offset + tl.arange(0, BLOCK_S)
            places, live = cache + s[:, None] * D + d[None, :], (s < last)[:, None] & (d < D)[None, :]
            k = tl.load(k_ptr + places, live, 0.0)
            v = tl.load(v_ptr + places, live, 0.0)
            scores = tl.dot(q, k.T, input_precision="ieee") * SCALE
            scores = tl.where((s < last)[None, :], scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp2(scores - new_top[:, None])
            kept = tl.exp2(top - new_top)
            weight = weight * kept + tl.sum(weights, 1)
            acc = acc * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            top = new_top
        let_next_start(EARLY)
        tl.store(sum_ptr + (head[:, None] * PARTS + part) * D + d[None, :], acc, own)
        tl.store(top_ptr + head * PARTS + part, top, g < GROUP)
        tl.store(weight_ptr + head * PARTS + part, weight, g < GROUP)


@triton.jit
def _join(
    position_ptr,
    sum_ptr,
    top_ptr,
    weight_ptr,
    factor_ptr,
    out_ptr,
    SLOTS,
    PARTS,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    FACTORS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PART: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The parts of :func:`_attend`, times factors [HEADS * D] if there are any -> [B, HEADS, D]."""
    head, d = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_D)
    wait_for_previous(EARLY)
    let_next_start(EARLY)
    position = tl.load(position_ptr + tl.program_id(0) // HEADS)
    live = tl.where(position < SLOTS - 1, position // PART + 1, 0)
    top = float("-inf")
    weight = 0.0
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for part in range(0, live):
        place = head * PARTS + part
        part_top = tl.load(top_ptr + place)
        new_top = tl.maximum(top, part_top)
        kept, added = tl.exp2(top - new_top), tl.exp2(part_top - new_top)
        weight = weight * kept + tl.load(weight_ptr + place) * added
        acc = acc * kept + tl.load(sum_ptr + place * D + d, d < D, 0.0) * added
        top = new_top
    attended = tl.where(live > 0, acc / weight, 0.0).to(out_ptr.dtype.element_ty)
    if FACTORS:
        factor = tl.load(factor_ptr + tl.program_id(0) % HEADS * D + d, d < D, 0.0)
        attended = (attended.to(tl.float32) * factor.to(tl.float32)).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + head * D + d, attended, d < D)


# Slots of a program, and of one turn of its loop.
_PART, _BLOCK_S = 128, 64
# The least number of rows of a tensor core's operand.
_LEAST_ROWS = 16


@triton_op("mmbuild::decode_attention", mutates_args={"k_cache", "v_cache"})
def decode_attention(
    sums: Tensor,
    row_factors: Tensor | None,
    factors: Tensor | None,
    bias: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    k_cache: Tensor,
    v_cache: Tensor,
    positions: Tensor,
    scale: float,
    out_factors: Tensor | None,
) -> Tensor:
    """Write the keys and values of a token at ``positions`` to the caches; its attention to the slots up to it.

    Args:
        sums: [parts, B, (heads + 2 * kv_heads) * head_size], the product (``linear.Sums``) of queries, keys and
            values, one after the other.
        row_factors: [B], with any stride.
        factors: [(heads + 2 * kv_heads) * head_size].
        bias: The same, added to the product.
        cos: [B, head_size], what queries and keys are rotated by; None if they are not.
        sin: The same.
        k_cache: [B, kv_heads, slots, head_size], contiguous; heads that share keys are neighbours.
        v_cache: The same.
        positions: int64 [B]; the last slot stands for no sequence, whose result is zeros, and nothing is written.
        scale: Factor of the scores.
        out_factors: [heads * head_size], of the result.

    Returns:
        [B, heads, head_size] in the dtype of the caches.
    """
    (terms, batch, width), (_, kv_heads, slots, size) = sums.shape, k_cache.shape
    heads = width // size - 2 * kv_heads
    parts = ceiling(slots, _PART)
    attended = torch.empty(batch, heads, parts, size, dtype=torch.float32, device=sums.device)
    tops = torch.empty(batch, heads, parts, dtype=torch.float32, device=sums.device)
    weights = torch.empty_like(tops)
    out = torch.empty(batch, heads, size, dtype=k_cache.dtype, device=sums.device)
    sums, positions = sums.contiguous(), positions.contiguous()
    block = max(_LEAST_ROWS, triton.next_power_of_2(size))
    group = heads // kv_heads
    attend = configured(
        _attend,
        2,
        2,
        SCALE=scale * math.log2(math.e),
        GROUP=group,
        KV=kv_heads,
        D=size,
        ROTARY=cos is not None,
        SUMS=terms,
        BY_ROW=row_factors is not None,
        BY_COLUMN=factors is not None,
        BIASED=bias is not None,
        BLOCK_G=max(_LEAST_ROWS, triton.next_power_of_2(group)),
        BLOCK_D=block,
        BLOCK_S=_BLOCK_S,
        PART=_PART,
        EARLY=starts_early(),
    )
    stride = 0 if row_factors is None else row_factors.stride(0)
    given = (row_factors, *(_contiguous(values) for values in (factors, bias, cos, sin)))
    # What is not there is not read.
    operands = [sums if values is None else values for values in given]
    wrap_triton(attend)[(batch * kv_heads, parts)](
        sums, *operands, k_cache, v_cache, positions, attended, tops, weights, stride, slots, parts
    )
    join = configured(
        _join,
        1,
        1,
        HEADS=heads,
        D=size,
        FACTORS=out_factors is not None,
        BLOCK_D=block,
        PART=_PART,
        EARLY=starts_early(),
    )
    last = sums if out_factors is None else out_factors
    wrap_triton(join)[(batch * heads,)](positions, attended, tops, weights, last, out, slots, parts)
    return out


def _contiguous(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.contiguous()
