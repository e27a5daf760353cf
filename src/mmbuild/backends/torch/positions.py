"""Position encodings: rotary embeddings and T5's relative bias."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmbuild.models.errors import EngineError
from mmbuild.models.families.facts import LlmFacts


def inverse_frequencies(llm: LlmFacts) -> Tensor:
    """Inverse frequencies, float32 [head_size / 2].

    Raises:
        EngineError: MM503, the model's rope scaling is not supported.
    """
    # Always on the CPU, because powers differ in the last bit between devices.
    exponents = torch.arange(0, llm.head_size, 2, dtype=torch.int64, device="cpu").float() / llm.head_size
    plain = 1.0 / ((llm.rotary_base or 10000.0) ** exponents)
    scaling = llm.rotary_scaling
    if not scaling:
        return plain
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    if kind not in _SCALED:
        raise EngineError(
            f"rope scaling `{kind}` is not supported; supported are {', '.join(sorted(_SCALED))}",
            code="MM503",
            hint="use a model with plain, linear or llama3 rotary positions",
        )
    return _SCALED[kind](plain, scaling)


def _linear(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    return plain / float(scaling["factor"])


def _llama3(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Llama 3.1: scale long wavelengths, keep short ones, interpolate between."""
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    context = float(scaling["original_max_position_embeddings"])
    wavelength = 2 * math.pi / plain
    slowed = torch.where(wavelength > context / low, plain / factor, plain)
    smooth = (context / wavelength - low) / (high - low)
    blended = (1 - smooth) * slowed / factor + smooth * slowed
    between = ~(wavelength < context / high) * ~(wavelength > context / low)
    return torch.where(between, blended, slowed)


def _default(plain: Tensor, _scaling: Mapping[str, Any]) -> Tensor:
    return plain


_SCALED = {"default": _default, "linear": _linear, "llama3": _llama3}


def tables(positions: Tensor, inv_freq: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions [B, L] -> two tensors [B, L, 1, head_size]."""
    angles = positions[:, :, None, None].float() * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head (GPT-NeoX order): x [B, L, heads, head_size]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


# The least length of a table; packages with shorter ones have not been tried.
_SHORTEST = 16


def table_length(reach: int, *, both_ways: bool) -> int:
    """Entries of :func:`buckets`."""
    return max(_SHORTEST, (2 * reach + 1) if both_ways else (reach + 1))


def buckets(llm: LlmFacts, reach: int, *, both_ways: bool) -> Tensor:
    """Bucket of every distance, int64.

    Args:
        llm: Whose buckets.
        reach: The largest distance.
        both_ways: For an encoder, keys are on both sides of a query: entry ``reach + (key - query)``. For a decoder
            they are before it: entry ``query - key``.
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
