"""T5's relative positions: a bias on attention scores that depends on the distance of key and query.

Buckets after ``T5Attention._relative_position_bucket`` of transformers. They depend on distances alone, so they
are computed once, in eager torch, when an engine is loaded: at the bounds of buckets a compiled logarithm that
rounds differently would choose the neighbour.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmbuild.models.families.facts import LlmFacts

# Inductor inlines constants of up to 8 elements; a table of buckets is never that short.
_SHORTEST = 16


def table_length(reach: int, *, both_ways: bool) -> int:
    """Entries of :func:`buckets`."""
    return max(_SHORTEST, (2 * reach + 1) if both_ways else (reach + 1))


def buckets(llm: LlmFacts, reach: int, *, both_ways: bool) -> Tensor:
    """Bucket of every distance, int64.

    Args:
        llm: Whose buckets.
        reach: The largest distance.
        both_ways: An encoder's keys lie behind and before a query: entry ``reach + (key - query)``. A decoder's
            lie before: entry ``query - key``.
    """
    length = table_length(reach, both_ways=both_ways)
    index = torch.arange(length, device="cpu")
    relative = index - reach if both_ways else -index
    count, first = llm.num_buckets, torch.zeros_like(relative)
    if both_ways:
        count //= 2
        first = (relative > 0).long() * count
    distance = relative.abs()
    exact = count // 2
    ratio = torch.log(distance.float() / exact) / math.log(llm.max_distance / exact)
    # Distance 0 has no logarithm; it is exact.
    large = (exact + torch.where(distance > 0, ratio, 0.0) * (count - exact)).long().clamp(max=count - 1)
    return first + torch.where(distance < exact, distance, large)


def encoder_bias(table: Tensor, bucket_of: Tensor, length: int, reach: int) -> Tensor:
    """Bias among ``length`` tokens: table [heads, buckets], bucket_of of :func:`buckets` -> [heads, L, L]."""
    positions = torch.arange(length, device=table.device)
    between = positions[None, :] - positions[:, None] + reach
    return table[:, bucket_of[between]]


def decoder_bias(table: Tensor, bucket_of: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
    """Bias of one token a sequence: table [heads, buckets], positions [B], slots [S] -> [B, heads, 1, S].

    Slots behind a position get some bias; they are masked.
    """
    distance = (positions[:, None] - slots[None, :]).clamp_min(0)
    return table[:, bucket_of[distance]].transpose(0, 1)[:, :, None]
