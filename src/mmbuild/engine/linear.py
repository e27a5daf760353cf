"""Linear layers in the layouts of the unified checkpoint, plain and weight-only quantized.

Weights are buffers named as in the checkpoint, so that a rank file's tensors are bound to a compiled package
without renaming or copying. ``row_count == 1`` (one sequence, one token) is memory-bound: there the quantized
layers are written as one reduction over the stored integers, which Inductor fuses into a kernel that reads
every weight byte once. All other shapes widen the weight first and use a matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbuild.engine.config import EngineConfig, EngineError


class Linear(nn.Module):
    """``y = x @ weight.T``; weight [out, in] in the engine's dtype."""

    weight: Tensor

    def __init__(self, config: EngineConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(outputs, inputs, dtype=config.torch_dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return nn.functional.linear(x, self.weight)


class Int8Linear(nn.Module):
    """``y = (x @ weight) * per_channel_scale``; weight int8 [in, out], scale [out] in the engine's dtype."""

    weight: Tensor
    per_channel_scale: Tensor

    def __init__(self, config: EngineConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(inputs, outputs, dtype=torch.int8))
        self.register_buffer("per_channel_scale", torch.empty(outputs, dtype=config.torch_dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if _is_one_row(x):
            return _scaled(_reduce(x, self.weight), self.per_channel_scale, x)
        return (x @ self.weight.to(x.dtype)) * self.per_channel_scale


class Int4Linear(nn.Module):
    """As :class:`Int8Linear` with two values a byte: weight int8 [in, out / 2], low nibble first."""

    weight: Tensor
    per_channel_scale: Tensor

    def __init__(self, config: EngineConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(inputs, outputs // 2, dtype=torch.int8))
        self.register_buffer("per_channel_scale", torch.empty(outputs, dtype=config.torch_dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        low, high = unpack_int4(self.weight)
        if _is_one_row(x):
            y = torch.stack((_reduce(x, low), _reduce(x, high)), dim=-1).flatten(-2)
            return _scaled(y, self.per_channel_scale, x)
        weight = torch.stack((low, high), dim=-1).flatten(-2).to(x.dtype)
        return (x @ weight) * self.per_channel_scale


def unpack_int4(packed: Tensor) -> tuple[Tensor, Tensor]:
    """int8 bytes [in, out / 2] -> the even and the odd columns, int8 [in, out / 2] each, in [-8, 7].

    Arithmetic shifts of the signed byte extend the sign of either nibble.
    """
    return (packed << 4) >> 4, packed >> 4


def _is_one_row(x: Tensor) -> bool:
    # A dynamic size is no int while exporting; asking whether it equals 1 would specialize it.
    return all(isinstance(size, int) and size == 1 for size in x.shape[:-1])


def _reduce(x: Tensor, weight: Tensor) -> Tensor:
    """One row times integers [in, out], accumulated in float32 -> [out]."""
    return (x.reshape(-1, 1).float() * weight.float()).sum(dim=0)


def _scaled(y: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    return (y * scale.float()).to(x.dtype).view(*x.shape[:-1], -1)


_LINEARS: dict[str | None, type[nn.Module]] = {None: Linear, "W8A16": Int8Linear, "W4A16": Int4Linear}


def quantizable(config: EngineConfig, inputs: int, outputs: int) -> nn.Module:
    """The linear layer that holds ``config.quant_algo``'s weights, [inputs] -> [outputs].

    Raises:
        EngineError: No layer here runs that algorithm.
    """
    if config.quant_algo not in _LINEARS:
        raise EngineError(
            f"the torch backend has no linear layer for `{config.quant_algo}`",
            code="MM502",
            hint="It runs none, int8 and int4 weight-only",
        )
    return _LINEARS[config.quant_algo](config, inputs, outputs)
