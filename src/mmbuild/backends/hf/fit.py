"""Chooses the scales of a site's inputs, and of weights whose inputs were measured.

The layers of a site share the scales of their inputs, so their errors are added up before a choice is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmbuild.backends.hf import arithmetic
from mmbuild.backends.hf.forms import Form
from mmbuild.backends.hf.inputs import Inputs
from mmbuild.models.checkpoint import weight_only_fit

_STEPS = 20
_LEAST = 1e-4


def awq(
    weights: Sequence[Tensor], inputs: Inputs, form: Form, group_size: int | None, dtype: torch.dtype
) -> Tensor:
    """AWQ's scales [in] of a site's inputs, float32: inputs are divided by them, columns of weights multiplied.

    Of scales ``m ** a`` and ``m ** a / w ** (1 - a)``, for mean magnitudes ``m`` of inputs and ``w`` of weights
    relative to their group (https://arxiv.org/abs/2306.00978), the one with the smallest squared error of the site's
    outputs on the sampled inputs. No scaling at all is among them.

    Args:
        weights: The site's weights, float32 [out, in].
        inputs: Its inputs.
        form: How layers are stored.
        group_size: Inputs that share a scale.
        dtype: Number format of the stored scales.
    """
    best, least = torch.ones_like(weights[0][0]), float("inf")
    for scales in _candidates(weights, inputs, group_size):
        error = sum(_error(weight, scales, inputs.rows, form, group_size, dtype) for weight in weights)
        if error < least:
            best, least = scales, error
    return best


def _candidates(weights: Sequence[Tensor], inputs: Inputs, group_size: int | None) -> Iterator[Tensor]:
    importance = _relative_magnitude(weights, group_size)
    for step in range(_STEPS):
        share = step / _STEPS
        plain = inputs.magnitude.clamp_min(_LEAST) ** share
        yield _centred(plain)
        yield _centred(plain / (importance ** (1 - share) + _LEAST))


def _relative_magnitude(weights: Sequence[Tensor], group_size: int | None) -> Tensor:
    """Mean over outputs of each weight's magnitude relative to the largest of its group: [in]."""
    whole = torch.cat(list(weights)).abs()
    groups = whole.unflatten(-1, (-1, group_size or whole.shape[-1]))
    return (groups / groups.amax(dim=-1, keepdim=True).clamp_min(_LEAST**2)).flatten(-2).mean(dim=0)


def _centred(scales: Tensor) -> Tensor:
    """``scales`` with the geometric mean of the largest and the smallest at 1."""
    scales = scales.clamp_min(_LEAST)
    return scales / (scales.max() * scales.min()).sqrt()


def _error(
    weight: Tensor, scales: Tensor, rows: Tensor, form: Form, group_size: int | None, dtype: torch.dtype
) -> float:
    scaled = weight * scales
    own = arithmetic.weight_scales(scaled, form, group_size, dtype)
    stored = arithmetic.widened(arithmetic.rounded(scaled, own, form), own).float()
    return float(((weight - stored / scales) @ rows.T).square().sum())


def smoothquant(weights: Sequence[Tensor], inputs: Inputs, form: Form, dtype: torch.dtype) -> Tensor:
    """SmoothQuant's scales [in] of a site's inputs, float32, as :func:`awq` returns them; 1 where inputs are zero.

    Of scales ``m ** a / w ** (1 - a)``, for the largest magnitudes ``m`` of inputs and ``w`` of weights
    (https://arxiv.org/abs/2211.10438, which has ``a`` = 0.5), the one with the smallest squared error of the site's
    outputs on the sampled inputs, when both are rounded.
    """
    columns = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
    usable = (inputs.largest > 0) & (columns > 0)
    best, least = torch.ones_like(columns), float("inf")
    for step in range(_STEPS + 1):
        share = step / _STEPS
        scales = inputs.largest**share / columns.clamp_min(_LEAST**2) ** (1 - share)
        scales = torch.where(usable, scales.clamp_min(_LEAST), 1.0)
        rows = _stored(inputs.rows / scales, form, dtype)
        error = sum(
            float((rows @ _stored(weight * scales, form, dtype).T - inputs.rows @ weight.T).square().sum())
            for weight in weights
        )
        if error < least:
            best, least = scales, error
    return best


def _stored(values: Tensor, form: Form, dtype: torch.dtype) -> Tensor:
    """``values`` after rounding with a scale for each row: servers round inputs like weights, token by token."""
    scales = arithmetic.weight_scales(values, form, None, dtype)
    return arithmetic.widened(arithmetic.rounded(values, scales, form), scales).float()


def weight_only(
    weight: Tensor, form: Form, group_size: int | None, dtype: torch.dtype, inputs: Inputs
) -> tuple[Tensor, Tensor]:
    """Values and scales of a layer whose inputs stay as they are, fitted to these inputs.

    Args:
        weight: float32 [out, in].
        form: How the layer is stored.
        group_size: Inputs that share a scale.
        dtype: Number format of the scales.
        inputs: The layer's inputs.

    Returns:
        As :func:`mmbuild.backends.hf.arithmetic.rounded` and :func:`~mmbuild.backends.hf.arithmetic.weight_scales`.
    """
    scales = arithmetic.weight_scales(weight, form, group_size, dtype)
    values = arithmetic.rounded(weight, scales, form)
    size, levels = group_size or weight.shape[1], 2 ** (form.bits - 1)
    found = []
    for number in range(scales.shape[1]):
        columns = slice(number * size, (number + 1) * size)
        moments = inputs.moments.columns((columns.start, columns.stop))
        found.append(
            weight_only_fit.search(weight[:, columns], values[:, columns], scales[:, number], levels, moments)
        )
    return torch.cat([part for part, _ in found], dim=1), torch.stack([part for _, part in found], dim=1)
