"""Weight-only scales that are searched for: those of a layer's smallest output error, as calibration saw its inputs.

Formats are those of :mod:`mmbuild.models.checkpoint.weight_only`, so engines notice nothing. What rounding a row ``w
[in]`` to ``s * q`` costs its output is, for inputs of mean ``m`` and variance ``v`` that are taken to vary
independently, ``sum(v * (w - s * q)^2) + sum(m * (w - s * q))^2``. Tried for each row are scales that clip it at
shares of its largest magnitude, each with the scale that suits the rounded values best (least squares), and what
weight-only quantization takes without data, which a row keeps where nothing is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.models.checkpoint import weight_only
from mmbuild.models.checkpoint.weight_only import WeightOnly

# Weights that are searched at once by one thread.
_BLOCK = 1 << 20
# The least share of a row's largest magnitude that it is clipped at, by levels: int4 gains by cutting off more.
_LEAST = {8: 0.5, 128: 0.85}
_TRIED = 14


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of a linear layer's inputs.

    Attributes:
        mean: float32 [in].
        variance: float32 [in], not negative.
    """

    mean: Tensor
    variance: Tensor

    def columns(self, columns: tuple[int, int] | None) -> Moments:
        """Of a rank's part of the inputs; None: of all."""
        if columns is None:
            return self
        part = slice(*columns)
        return Moments(self.mean[part], self.variance[part])

    def product(self, one: Tensor, other: Tensor) -> Tensor:
        """Mean product of two rows' outputs, for rows of ``one`` and ``other`` [rows, in]: [rows]."""
        return (one * other) @ self.variance + (one @ self.mean) * (other @ self.mean)


def quantize(weight: Tensor, algorithm: WeightOnly, moments: Moments) -> tuple[Tensor, Tensor]:
    """Quantize one rank's weight with scales that suit its inputs.

    Args:
        weight: ``[out, in]``, any floating dtype, finite.
        algorithm: Which.
        moments: Of the inputs of this rank.

    Returns:
        As :func:`mmbuild.models.checkpoint.weight_only.quantize`: int8 ``[in, out / packed]`` and scales ``[out]`` in
        the weight's dtype.
    """
    plain, plain_scales = weight_only.quantize(weight, algorithm)
    whole = (weight_only.unpack(plain) if algorithm.packed == 2 else plain).t()
    step = max(1, _BLOCK // weight.shape[1])
    found = [
        _search(
            weight[start : start + step].float(),
            whole[start : start + step],
            plain_scales[start : start + step],
            algorithm.levels,
            moments,
        )
        for start in range(0, len(weight), step)
    ]
    values = torch.cat([rows for rows, _ in found])
    stored = weight_only.pack(values) if algorithm.packed == 2 else values
    return stored.t().contiguous(), torch.cat([scales for _, scales in found])


def _search(
    weight: Tensor, values: Tensor, scales: Tensor, levels: int, moments: Moments
) -> tuple[Tensor, Tensor]:
    """int8 ``[rows, in]`` and scales ``[rows]`` of the least error, beginning with those given."""
    best = _error(weight, values.float(), scales, moments)
    largest = weight.abs().amax(dim=1)
    for share in _shares(levels):
        clipped = torch.where(largest > 0, largest * share / (levels - 1), 1.0)
        tried = (weight / clipped[:, None]).round_().clamp_(-levels, levels - 1)
        square = moments.product(tried, tried)
        fitted = torch.where(square > 0, moments.product(weight, tried) / square, clipped).to(scales.dtype)
        error = _error(weight, tried, fitted, moments)
        better = (error < best) & torch.isfinite(fitted) & (fitted > 0)
        best = torch.where(better, error, best)
        values = torch.where(better[:, None], tried.to(torch.int8), values)
        scales = torch.where(better, fitted, scales)
    return values, scales


def _shares(levels: int) -> Sequence[float]:
    least = _LEAST[levels]
    return [1 - number * (1 - least) / (_TRIED - 1) for number in range(_TRIED)]


def _error(weight: Tensor, values: Tensor, scales: Tensor, moments: Moments) -> Tensor:
    left = weight - values * scales.float()[:, None]
    return moments.product(left, left)
