"""Fits scales of plain weight-only int8 and int4 to the measured inputs of each layer.

AWQ, SmoothQuant and FP8 are fitted in ``mmbuild.backends.torch.calibration.fit_scales``.

The format is that of :mod:`mmbuild.models.checkpoint.weight_only`, so engines need no change. Rounding a row
``w [in]`` to ``s * q`` causes the expected squared output error
``sum(v * (w - s * q)^2) + sum(m * (w - s * q))^2``, for independent inputs with mean ``m`` and variance ``v``. For
each row, candidates clip it at fractions of its largest magnitude, each with the least-squares scale for the rounded
values. The scale of data-free quantization is kept if no candidate is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.models.checkpoint import weight_only
from mmbuild.models.checkpoint.weight_only import WeightOnly

# Weights processed at once by one thread.
_BLOCK = 1 << 20
# Smallest fraction of a row's largest magnitude to clip at, by levels: int4 benefits from more clipping.
_LEAST = {8: 0.5, 128: 0.85}
_TRIED = 14


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of a linear layer's inputs.

    Attributes:
        mean: float32 [in].
        variance: float32 [in], not negative.
    """

    mean: Tensor
    variance: Tensor

    def columns(self, columns: tuple[int, int] | None) -> Moments:
        """Moments of a range of inputs; None: of all."""
        if columns is None:
            return self
        part = slice(*columns)
        return Moments(self.mean[part], self.variance[part])

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Mean product of the outputs of rows in ``left`` and ``right`` [rows, in]: [rows]."""
        return (left * right) @ self.variance + (left @ self.mean) * (right @ self.mean)


def quantize(weight: Tensor, algorithm: WeightOnly, moments: Moments) -> tuple[Tensor, Tensor]:
    """Quantize one rank's weight with scales fitted to its inputs.

    Args:
        weight: ``[out, in]``, any floating dtype, finite.
        algorithm: The algorithm.
        moments: Moments of this rank's inputs.

    Returns:
        As :func:`mmbuild.models.checkpoint.weight_only.quantize`: int8 ``[in, out / packed]`` and scales ``[out]`` in
        the weight's dtype.
    """
    plain, plain_scales = weight_only.quantize(weight, algorithm)
    whole = (weight_only.unpack(plain) if algorithm.packed == 2 else plain).t()
    step = max(1, _BLOCK // weight.shape[1])
    found = [
        search(
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


def search(
    weight: Tensor, values: Tensor, scales: Tensor, levels: int, moments: Moments
) -> tuple[Tensor, Tensor]:
    """Minimize the error, starting from the given values; returns int8 ``[rows, in]`` and scales ``[rows]``."""
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
