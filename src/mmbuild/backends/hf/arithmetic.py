"""Scales, rounding and packing of quantized weights, in float32.

A scale is the largest magnitude divided by what it becomes. In groups, and for float8_e4m3fn, that is half of the
range (7.5 for 4 bits, 448), as in compressed-tensors (``calculate_qparams``): the largest weight is half a step off,
and all steps are smaller. In a row with one scale for all inputs it is the largest stored value, 7 or 127, as in
Model Optimizer: there the largest weight is far from the others, and counts more than their steps
(benchmarks/RESULTS.md, real_decoder). Values are rounded half to even and clipped. A scale is rounded to the stored
number format before weights are divided by it, so values fit the stored scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmbuild.backends.hf.forms import Form

FLOAT8_MAX = 448.0
_WORD = 32


def largest_value(form: Form, *, groups: bool) -> float:
    """What the largest magnitude of a row, or of a group of its inputs, becomes before rounding."""
    if form.kind == "float":
        return FLOAT8_MAX
    return (2**form.bits - 1) / 2 if groups else 2 ** (form.bits - 1) - 1


def scales_of(largest: Tensor, form: Form, dtype: torch.dtype, *, groups: bool = False) -> Tensor:
    """Scales in ``dtype`` for the largest magnitudes ``largest``, float32 of any shape; never zero.

    Zeros stay zero with any scale; so does what is too small for ``dtype``.
    """
    scales = (largest / largest_value(form, groups=groups)).to(dtype)
    return torch.where(scales == 0, torch.finfo(dtype).tiny, scales)


def weight_scales(weight: Tensor, form: Form, group_size: int | None, dtype: torch.dtype) -> Tensor:
    """Scales of a weight ``[out, in]``, float32: ``[out, groups]`` in ``dtype``, or ``[1]`` for a whole weight."""
    if form.per_tensor:
        return scales_of(weight.abs().amax().reshape(1), form, dtype)
    groups = weight.unflatten(-1, (-1, group_size or weight.shape[-1]))
    return scales_of(groups.abs().amax(dim=-1), form, dtype, groups=group_size is not None)


def rounded(weight: Tensor, scales: Tensor, form: Form) -> Tensor:
    """Values of a weight ``[out, in]`` with its scales: int8 or float8_e4m3fn ``[out, in]``."""
    divided = _by_group(weight, scales)
    divided.div_(_columns(scales))
    if form.kind == "float":
        return divided.clamp_(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn).reshape(weight.shape)
    levels = 2 ** (form.bits - 1)
    return divided.round_().clamp_(-levels, levels - 1).to(torch.int8).reshape(weight.shape)


def widened(values: Tensor, scales: Tensor) -> Tensor:
    """The weight ``[out, in]`` that values and scales stand for, in the scales' number format."""
    return (_by_group(values.to(scales.dtype), scales) * _columns(scales, scales.dtype)).reshape(values.shape)


def _by_group(weight: Tensor, scales: Tensor) -> Tensor:
    """A copy ``[out, groups, in / group]`` of ``[out, in]``; one group without groups."""
    groups = scales.shape[-1] if scales.dim() == 2 else 1
    return weight.unflatten(-1, (groups, -1)).clone()


def _columns(scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return scales.to(dtype)[..., None]


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack int8 values ``[out, in]`` of ``bits`` bits into int32 words ``[out, ceil(in * bits / 32)]``.

    The lowest input is in the lowest bits; values are raised by half of their range; the last word is filled with
    zeros.
    """
    each = _WORD // bits
    raised = torch.nn.functional.pad(values.to(torch.int32) + (1 << (bits - 1)), (0, -values.shape[1] % each))
    words = torch.zeros(len(values), raised.shape[1] // each, dtype=torch.int32)
    for place in range(each):
        words |= raised[:, place::each] << (bits * place)
    return words


def packed_columns(inputs: int, bits: int) -> int:
    """Number of words that hold one output's values."""
    return math.ceil(inputs / (_WORD // bits))
