"""Values that must not be in weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmbuild.models.checkpoint.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Unsigned integer of the same width, and the bits of the exponent: all set in NaN and infinity.
_EXPONENTS = {
    "float16": ("uint16", 0x7C00),
    "bfloat16": ("uint16", 0x7F80),
    "float32": ("uint32", 0x7F800000),
}
_CHUNK = 1 << 18  # elements; stays in the second-level cache


def require_finite(tensor: Tensor, name: str, file: str, dtype: str) -> None:
    """Refuse NaN and infinity in a contiguous CPU tensor.

    Looks at the bits, chunk by chunk, because numpy's ``isfinite`` on float16 takes ten times as long as
    copying the data.

    Raises:
        CheckpointError: MM432, with the tensor's name and file.
    """
    if not _all_finite(tensor, dtype):
        raise CheckpointError(
            f"tensor `{name}` in `{file}` holds NaN or infinity (as {dtype})",
            code="MM432",
            hint="The weights are damaged, or their values do not fit: try engine.dtype bfloat16",
        )


def _all_finite(tensor: Tensor, dtype: str) -> bool:
    import torch

    integer, exponent = _EXPONENTS[dtype]
    bits: np.ndarray = tensor.reshape(-1).view(torch.uint8).numpy().view(integer)
    mask = bits.dtype.type(exponent)
    return all(
        int((bits[start : start + _CHUNK] & mask).max(initial=0)) < exponent
        for start in range(0, len(bits), _CHUNK)
    )
