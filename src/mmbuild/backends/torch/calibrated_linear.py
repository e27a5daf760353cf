"""Linear layers of calibrated checkpoints (``models/checkpoint/calibrated_layout.py`` says what their tensors stand
for).

Weights are used as the checkpoint stores them, on the CPU from the mapped file. One row reads each stored weight
once: on CUDA in a kernel of ours (``calibrated_kernels.py``); on the CPU, and where sizes do not suit the kernel, in
a reduction that Inductor fuses with unpacking and scaling. All other shapes use a matrix product: of widened weights
(AWQ, FP8), of int8 (SmoothQuant).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmbuild.backends.torch import linear
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.linear import (
    Linear,
    MakeLinear,
    PlainLinear,
    RankLinear,
    RowLinear,
    frozen_parameter,
    is_one_row,
)
from mmbuild.models.checkpoint import calibrated_layout as stored
from mmbuild.models.checkpoint.calibrated_layout import FLOAT8_FROM_SM
from mmbuild.models.errors import CheckpointError, EngineError

# Copies of a scalar that packages are bound to: Inductor compiles constants of up to 8 elements into the package.
SCALAR_COPIES = 16
# What int8 and float8_e4m3fn hold at most.
_INT8_MAX, _FP8_MAX = 127, 448.0
# A token of zeros alone is quantized by this instead of 0.
_LEAST_SCALE = 1e-12
# Inputs that kernels of one row read together.
_WORD = 4
# Tokens that cuBLAS needs more than for a product of int8, and what sizes must be multiples of.
_INT_MM_ROWS, _INT_MM_ALIGNED = 16, 8


class AwqLinear(RankLinear):
    """Int4 weights with a scale for each group of inputs, on inputs multiplied by a factor each.

    weight int8 [out / 2, in], weights_scaling_factor [out, in / group] and prequant_scaling_factor [in] in the
    engine's dtype.
    """

    def __init__(
        self,
        config: EngineConfig,
        layout: linear.Layout,  # noqa: ARG002 (one layout for all devices)
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        reduce: bool = False,
    ) -> None:
        super().__init__(config, outputs, bias=bias, reduce=reduce)
        groups, pairs = _awq_sizes(config, inputs, outputs)
        self.weight = frozen_parameter(torch.empty(pairs, inputs, dtype=torch.int8))
        self.weights_scaling_factor = frozen_parameter(torch.empty(outputs, groups, dtype=config.torch_dtype))
        self.prequant_scaling_factor = frozen_parameter(torch.empty(inputs, dtype=config.torch_dtype))

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        x = x * self.prequant_scaling_factor
        outputs, groups = self.weights_scaling_factor.shape
        if is_one_row(x) and _has_kernel(x, x.shape[-1] // groups):
            from mmbuild.backends.torch.kernels import awq_rows

            return awq_rows(x.reshape(-1), self.weight, self.weights_scaling_factor).view(*x.shape[:-1], -1)
        # The halves of a byte are neighbouring outputs: [out / 2, 2, groups].
        scale = self.weights_scaling_factor.unflatten(0, (-1, 2))
        halves = [half.unflatten(1, (groups, -1)) for half in linear.unpack_int4(self.weight)]
        if is_one_row(x):
            row, wide = _stored_once(x.float()).reshape(1, groups, -1), scale.float()
            sums = [
                (half.float() * row * wide[:, i, :, None]).sum(dim=(1, 2)) for i, half in enumerate(halves)
            ]
            return torch.stack(sums, dim=-1).to(x.dtype).view(*x.shape[:-1], outputs)
        weight = torch.stack(halves, dim=1).to(x.dtype) * scale[..., None]
        return F.linear(x, weight.flatten(2).flatten(0, 1))


def _awq_sizes(config: EngineConfig, inputs: int, outputs: int) -> tuple[int, int]:
    """Groups along the inputs and bytes along the outputs.

    Raises:
        EngineError: MM543 and MM437, groups or pairs do not divide them.
    """
    name = f"a linear layer of {inputs} inputs and {outputs} outputs"
    try:
        return stored.groups(name, inputs, config.group_size), stored.packed_outputs(name, outputs)
    except CheckpointError as error:
        raise EngineError(error.message, code=error.code, hint=error.hint) from error


class SmoothQuantLinear(RankLinear):
    """Int8 weights with a scale for each output, on inputs quantized to int8 token by token; summed as int32.

    weight int8 [out, in], per_channel_scale float32 [1, out]; where ranks split the inputs, smoother float32
    [1, in], which inputs are divided by.
    """

    def __init__(
        self,
        config: EngineConfig,
        layout: linear.Layout,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        reduce: bool = False,
    ) -> None:
        super().__init__(config, outputs, bias=bias, reduce=reduce)
        aligned = inputs % _INT_MM_ALIGNED == 0 and outputs % _INT_MM_ALIGNED == 0
        self.matrix_product = layout == "plain" or aligned
        self.weight = frozen_parameter(torch.empty(outputs, inputs, dtype=torch.int8))
        self.per_channel_scale = frozen_parameter(torch.empty(1, outputs, dtype=torch.float32))
        self.smoother = frozen_parameter(torch.empty(1, inputs, dtype=torch.float32)) if reduce else None

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        wide = x.float() if self.smoother is None else x.float() / self.smoother[0]
        scale = wide.abs().amax(dim=-1, keepdim=True).clamp_min(_LEAST_SCALE) / _INT8_MAX
        values = (wide / scale).round().to(torch.int8)
        return (self._sums(values).float() * scale * self.per_channel_scale[0]).to(x.dtype)

    def _sums(self, values: Tensor) -> Tensor:
        """int8 [..., in] -> int32 [..., out]."""
        if is_one_row(values) and _has_kernel(values, values.shape[-1]):
            from mmbuild.backends.torch.kernels import int8_rows

            return int8_rows(values.reshape(-1), self.weight).view(*values.shape[:-1], -1)
        if is_one_row(values) or not self.matrix_product:
            wide = _stored_once(values.int()) if is_one_row(values) else values.int()
            return (wide[..., None, :] * self.weight.int()).sum(dim=-1, dtype=torch.int32)
        tokens = F.pad(values.flatten(0, -2), (0, 0, 0, _INT_MM_ROWS))
        sums = torch._int_mm(tokens, self.weight.t())[:-_INT_MM_ROWS]
        return sums.view(*values.shape[:-1], -1)


class Fp8Linear(RankLinear):
    """Float8 weights, and on CUDA inputs that are rounded to float8; one factor for each, float32.

    weight float8_e4m3fn [out, in]. On the CPU inputs are not rounded: weights alone are what the checkpoint's are.
    Products are those of the engine's dtype: Inductor (torch 2.11) does not compile ``_scaled_mm`` with factors that
    are parts of constants. The factors are scalars that are bound as :data:`SCALAR_COPIES` copies.
    """

    def __init__(
        self,
        config: EngineConfig,
        layout: linear.Layout,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        reduce: bool = False,
    ) -> None:
        super().__init__(config, outputs, bias=bias, reduce=reduce)
        self.rounds_inputs = layout == "rows"
        self.weight = frozen_parameter(torch.empty(outputs, inputs, dtype=torch.float8_e4m3fn))
        self.weights_scaling_factor = frozen_parameter(torch.empty(SCALAR_COPIES, dtype=torch.float32))
        self.activation_scaling_factor = frozen_parameter(torch.empty(SCALAR_COPIES, dtype=torch.float32))

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if self.rounds_inputs:
            unit = self.activation_scaling_factor[0]
            rounded = (x.float() / unit).clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)
            if is_one_row(x) and _has_kernel(x, x.shape[-1]):
                from mmbuild.backends.torch.kernels import float8_rows

                scale = unit * self.weights_scaling_factor[0]
                sums = float8_rows(rounded.half().reshape(-1), self.weight) * scale
                return sums.to(x.dtype).view(*x.shape[:-1], -1)
            x = (rounded.float() * unit).to(x.dtype)
        return self._widened(x, self.weights_scaling_factor[0])

    def _widened(self, x: Tensor, scale: Tensor) -> Tensor:
        """x [..., in] times the weights that stored ones and ``scale`` stand for: [..., out] in x's dtype."""
        if is_one_row(x):
            sums = (_stored_once(x.float())[..., None, :] * self.weight.float()).sum(dim=-1)
            return (sums * scale).to(x.dtype)
        # Scaled before: products with stored weights, which go up to 448, could exceed float16.
        return F.linear(x, (self.weight.float() * scale).to(x.dtype))


def _has_kernel(x: Tensor, together: int) -> bool:
    """Whether one row on this device has a kernel: ``together`` inputs are whole words."""
    return x.is_cuda and together % _WORD == 0


def _stored_once(x: Tensor) -> Tensor:
    """x, contiguous, in memory before it is used.

    Inductor would work out what leads to x (a division and a rounding, a SiLU) again for every output. It stores what
    is viewed by strides: for int8 tokens 1.3 ms instead of 4.1 for 4096 x 4096 on one core.
    """
    x = x.contiguous()
    return torch.as_strided(x, x.shape, x.stride())


def stored_shape(name: str, tensor: Tensor, config: EngineConfig) -> tuple[int, ...]:
    """Shape that the checkpoint's tensor has for what the module calls ``name``."""
    return (1,) if _is_scalar(name, config) else tuple(tensor.shape)


def bound(name: str, tensor: Tensor, config: EngineConfig) -> Tensor:
    """What packages are bound to for a checkpoint's tensor: scalars are repeated."""
    return tensor.expand(SCALAR_COPIES).contiguous() if _is_scalar(name, config) else tensor


def reads(name: str, config: EngineConfig, device: str) -> bool:
    """Whether graphs for ``device`` read what the module calls ``name``: on the CPU FP8 rounds no inputs."""
    return not (config.quant_algo == "FP8" and device == "cpu" and name.endswith("activation_scaling_factor"))


def _is_scalar(name: str, config: EngineConfig) -> bool:
    return config.quant_algo == "FP8" and name.endswith("_scaling_factor")


_WEIGHT_ONLY = ("W8A16", "W4A16")
_CALIBRATED: Mapping[str, Callable[..., RankLinear]] = {
    "W4A16_AWQ": AwqLinear,
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": SmoothQuantLinear,
    "FP8": Fp8Linear,
}


def linear_maker(config: EngineConfig, layout: linear.Layout) -> MakeLinear:
    """What makes a stack's linear layers for the checkpoint's quantization.

    Raises:
        EngineError: MM502, no layer here runs that quantization.
    """
    algorithm = config.quant_algo
    if algorithm is None:
        return partial(Linear, config, layout)
    if algorithm in _CALIBRATED:
        return partial(_CALIBRATED[algorithm], config, layout)
    if algorithm not in _WEIGHT_ONLY:
        raise EngineError(
            f"the torch backend has no linear layer for `{algorithm}`",
            code="MM502",
            hint=f"It runs {', '.join(['none', *_WEIGHT_ONLY, *_CALIBRATED])}",
        )
    kind = RowLinear if layout == "rows" else PlainLinear
    return partial(kind, config, algorithm)


def check_target(config: EngineConfig, target: Mapping[str, Any]) -> None:
    """Refuse a GPU that does not multiply what the checkpoint holds.

    Args:
        config: Of the engine.
        target: ``{"device", "sm", ...}``; an SM that is not stated is not judged.

    Raises:
        EngineError: MM545, FP8 below SM 89.
    """
    sm = target.get("sm")
    if config.quant_algo == "FP8" and target["device"] == "cuda" and sm is not None and sm < FLOAT8_FROM_SM:
        raise EngineError(
            f"FP8 needs a GPU of SM {FLOAT8_FROM_SM} or later, and the target is SM {sm}",
            code="MM545",
            hint="Use int4_awq or int8 there, or name another GPU in target",
        )
