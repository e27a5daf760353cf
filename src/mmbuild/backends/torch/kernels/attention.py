"""Attention of one new token per sequence to its live slots of the caches.

Slots are divided into parts, so that few sequences use the whole GPU. A program handles the heads that share keys in
one part of one sequence; another kernel joins the parts. Only live slots are read: sequences may have any lengths.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from mmbuild.backends.torch.kernels.configured import ceiling, configured


@triton.jit
def _attend(
    q_ptr,
    k_ptr,
    v_ptr,
    position_ptr,
    sum_ptr,
    top_ptr,
    weight_ptr,
    SLOTS,
    PARTS,
    SCALE: tl.constexpr,
    GROUP: tl.constexpr,
    KV: tl.constexpr,
    D: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    PART: tl.constexpr,
):
    """q [B, KV * GROUP, D], caches [B, KV, SLOTS, D], positions int64 [B] -> for each part the sums of weighted
    values float32 [B, KV * GROUP, PARTS, D]; the largest scores and the sums of weights, float32
    [B, KV * GROUP, PARTS] each.

    Scores are to the base 2: SCALE includes its logarithm.
    """
    sequence, part = tl.program_id(0) // KV, tl.program_id(1)
    position = tl.load(position_ptr + sequence)
    first = part * PART
    if (position < SLOTS - 1) & (first <= position):
        g, d = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D)
        own = (g < GROUP)[:, None] & (d < D)[None, :]
        head = (tl.program_id(0) * GROUP + g).to(tl.int64)
        q = tl.load(q_ptr + head[:, None] * D + d[None, :], own, 0.0)
        cache = tl.program_id(0).to(tl.int64) * SLOTS * D
        last = tl.minimum(first + PART, position + 1)
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
        tl.store(sum_ptr + (head[:, None] * PARTS + part) * D + d[None, :], acc, own)
        tl.store(top_ptr + head * PARTS + part, top, g < GROUP)
        tl.store(weight_ptr + head * PARTS + part, weight, g < GROUP)


@triton.jit
def _join(
    position_ptr,
    sum_ptr,
    top_ptr,
    weight_ptr,
    out_ptr,
    SLOTS,
    PARTS,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PART: tl.constexpr,
):
    """The parts of :func:`_attend` -> [B, HEADS, D]."""
    head, d = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_D)
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
    acc = tl.where(live > 0, acc / weight, 0.0)
    tl.store(out_ptr + head * D + d, acc.to(out_ptr.dtype.element_ty), d < D)


# Slots of a program, and of one turn of its loop.
_PART, _BLOCK_S = 128, 64
# The least number of rows of a tensor core's operand.
_LEAST_ROWS = 16


@triton_op("mmbuild::decode_attention", mutates_args={})
def decode_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, positions: Tensor, scale: float) -> Tensor:
    """Attention of a token at ``positions`` to the slots up to it.

    Args:
        q: [B, heads, head_size], with any strides.
        k_cache: [B, kv_heads, slots, head_size], contiguous; heads that share keys are neighbours.
        v_cache: The same.
        positions: int64 [B]; the last slot stands for no sequence, whose result is zeros.
        scale: Factor of the scores.

    Returns:
        [B, heads, head_size] in q's dtype.
    """
    (batch, heads, size), (_, kv_heads, slots, _) = q.shape, k_cache.shape
    parts = ceiling(slots, _PART)
    sums = torch.empty(batch, heads, parts, size, dtype=torch.float32, device=q.device)
    tops = torch.empty(batch, heads, parts, dtype=torch.float32, device=q.device)
    weights = torch.empty_like(tops)
    q, positions = q.contiguous(), positions.contiguous()
    out = torch.empty_like(q)
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
        BLOCK_G=max(_LEAST_ROWS, triton.next_power_of_2(group)),
        BLOCK_D=block,
        BLOCK_S=_BLOCK_S,
        PART=_PART,
    )
    grid = (batch * kv_heads, parts)
    wrap_triton(attend)[grid](q, k_cache, v_cache, positions, sums, tops, weights, slots, parts)
    join = configured(_join, 1, 1, HEADS=heads, D=size, BLOCK_D=block, PART=_PART)
    wrap_triton(join)[(batch * heads,)](positions, sums, tops, weights, out, slots, parts)
    return out
