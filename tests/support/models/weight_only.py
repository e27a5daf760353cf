"""Weight-only checkpoints read back: the weights that stored values and scales encode."""

from __future__ import annotations

import torch
from torch import Tensor

from mmbuild.models.checkpoint.weight_only import WeightOnly, unpack


def dequantize(values: Tensor, scales: Tensor, algorithm: WeightOnly) -> Tensor:
    """The weight ``[out, in]``, float32, that stored values and scales encode."""
    whole = unpack(values) if algorithm.packed == 2 else values
    return (whole.to(torch.float32) * scales.to(torch.float32)).t()
