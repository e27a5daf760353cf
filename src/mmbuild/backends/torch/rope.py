"""Rotary positions, to the bit as transformers computes them (``modeling_rope_utils.py``)."""

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
        EngineError: The model's rope scaling is of a kind that is not built.
    """
    # On the CPU whatever the default device: powers differ in the last bit between devices.
    exponents = torch.arange(0, llm.head_size, 2, dtype=torch.int64, device="cpu").float() / llm.head_size
    plain = 1.0 / ((llm.rotary_base or 10000.0) ** exponents)
    scaling = llm.rotary_scaling
    if not scaling:
        return plain
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    if kind not in _SCALED:
        raise EngineError(
            f"rope scaling `{kind}` is not built; known are {', '.join(sorted(_SCALED))}",
            code="MM503",
            hint="Use a model with plain, linear or llama3 rotary positions",
        )
    return _SCALED[kind](plain, scaling)


def _linear(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    return plain / float(scaling["factor"])


def _llama3(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Long wavelengths are slowed, short ones kept, those between blended (Llama 3.1)."""
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
