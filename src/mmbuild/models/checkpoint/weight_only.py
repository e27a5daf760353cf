"""Weight-only quantization with TensorRT-LLM's arithmetic, in the plain layout.

Follows ``symmetric_quantize`` in its ``cutlass_preprocessors.cpp``, on one rank's weight ``[out, in]``. Per output
channel, scale = absmax / 128 (int8) or absmax / 8 (int4) in float32. Values are divided by it, rounded half away from
zero, clipped to [-128, 127] or [-8, 7], and stored transposed, ``[in, out]``, with two int4 per byte, the lower
column in the low nibble. The scale is stored in the model's dtype. The GPU-specific permutation that follows there is
omitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmbuild.models.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Weights rounded at once by one thread: the float32 copies fit into the L2 cache.
_CHUNK = 1 << 18
# Outputs per cache line of the transposed result, so that each line is written once.
_LINE = 64
# Magnitude bits of 16-bit floats. Without the sign, finite floats have the order of their bits.
_MAGNITUDE = 0x7FFF
# The largest float32 below 0.5. Adding it and truncating rounds halves away from zero; adding 0.5 would round
# 0.49999997 up, because that sum is 1 in float32.
_BELOW_HALF = 0.49999997


@dataclass(frozen=True, slots=True)
class WeightOnly:
    """A weight-only algorithm.

    Attributes:
        quant_algo: Its name in ``config.json``.
        levels: The scale is absmax divided by this; values are in [-levels, levels - 1].
        packed: Values per byte.
    """

    quant_algo: str
    levels: int
    packed: int


ALGORITHMS: Mapping[str, WeightOnly] = {
    "int8": WeightOnly("W8A16", 128, 1),
    "int4": WeightOnly("W4A16", 8, 2),
}


def quantized_shape(shape: tuple[int, ...], algorithm: WeightOnly, name: str) -> tuple[int, int]:
    """Shape of the stored int8 tensor for a weight ``[out, in]``.

    Raises:
        CheckpointError: MM437, the number of outputs is odd.
    """
    outputs, inputs = shape
    if outputs % algorithm.packed:
        raise CheckpointError(
            f"tensor `{name}` has {outputs} outputs on a rank, which do not pack two to a byte",
            code="MM437",
            hint="choose int8, or an engine.tensor_parallel that leaves an even number",
        )
    return inputs, outputs // algorithm.packed


def quantize(weight: Tensor, algorithm: WeightOnly) -> tuple[Tensor, Tensor]:
    """Quantize one rank's weight.

    Args:
        weight: ``[out, in]``, any floating dtype, finite.
        algorithm: The algorithm.

    Returns:
        int8 ``[in, out / packed]`` and the scales ``[out]`` in the weight's dtype. An output whose weights
        are all zero has scale 0.
    """
    import torch

    outputs, inputs = weight.shape
    values = torch.empty(inputs, outputs // algorithm.packed, dtype=torch.int8)
    scales = torch.empty(outputs, dtype=torch.float32)
    step = max(1, _CHUNK // inputs // _LINE) * _LINE
    # Reused, because new memory for every block costs a page fault per 4 KiB, which is slower than the arithmetic.
    scratch = torch.empty(2, min(step, outputs), inputs)
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        block = weight[start:stop]
        scales[start:stop] = scale = _absmax(block) / algorithm.levels
        rounded = _round(block, scale, algorithm.levels, scratch[:, : stop - start])
        columns = slice(start // algorithm.packed, stop // algorithm.packed)
        values[:, columns] = (pack(rounded) if algorithm.packed == 2 else rounded).t()
    return values, scales.to(weight.dtype)


def pack(values: Tensor) -> Tensor:
    """Pack int4 values ``[out, in]`` (int8 in [-8, 7]) into bytes ``[out / 2, in]``: even outputs in low nibbles."""
    return (values[0::2] & 0x0F) | (values[1::2] * 16)


def unpack(packed: Tensor) -> Tensor:
    """Unpack stored bytes ``[in, out / 2]`` into int8 values ``[in, out]``."""
    import torch

    low, high = (packed << 4) >> 4, packed >> 4
    return torch.stack((low, high), dim=-1).flatten(-2)


def _absmax(weight: Tensor) -> Tensor:
    """Largest magnitude in each row of ``[out, in]``, float32."""
    import torch

    if weight.element_size() != 2:
        return weight.abs().amax(dim=1).to(torch.float32)
    bits: np.ndarray = weight.view(torch.int16).numpy().view("uint16")
    largest = (bits & bits.dtype.type(_MAGNITUDE)).max(axis=1)
    return torch.from_numpy(largest.view("int16")).view(weight.dtype).to(torch.float32)


def _round(weight: Tensor, scale: Tensor, levels: int, scratch: Tensor) -> Tensor:
    """int8 values of ``[out, in]``; ``scratch`` is float32 ``[2, out, in]``."""
    import torch

    ratio, sign = scratch
    ratio.copy_(weight)
    ratio /= torch.where(scale > 0, scale, 1.0).unsqueeze(1)
    # The product with the sign is exact, so the sum is rounded only once, as with copysign.
    ratio.add_(torch.sign(ratio, out=sign), alpha=_BELOW_HALF)
    return ratio.clamp_(-levels, levels - 1).to(torch.int8)
