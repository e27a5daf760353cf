"""Linear layers of calibrated checkpoints; ``models/checkpoint/calibrated_layout.py`` defines their tensors.

Weights are used as stored in the checkpoint, on the CPU from the mapped file. One token of a few sequences reads each
stored weight once: on CUDA in a Triton kernel (:mod:`mmbuild.backends.torch.kernels.products`); on the CPU, for one
sequence, in a reduction that Inductor fuses with unpacking and scaling. All other shapes use a matrix product: with
widened weights (AWQ; on the CPU, for several sequences, a tile at a time), in int8 (SmoothQuant) or, on CUDA, in
float8 (FP8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from mmbuild.backends.torch import linear
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.kernels import MOST_ROWS
from mmbuild.backends.torch.linear import (
    Linear,
    MakeLinear,
    PlainLinear,
    RankLinear,
    RowLinear,
    Sums,
    frozen_parameter,
    is_one_row,
    is_one_token,
    is_one_token_each,
)
from mmbuild.models.checkpoint import calibrated_layout as stored
from mmbuild.models.checkpoint.calibrated_layout import FLOAT8_FROM_SM
from mmbuild.models.errors import CheckpointError, EngineError

# Largest values of int8 and float8_e4m3fn.
_INT8_MAX, _FP8_MAX = 127, 448.0
# Float8 products of cuBLAS need multiples of this.
_FP8_UNIT = 16
# Minimum scale, for tokens that are all zero.
_LEAST_SCALE = 1e-12
# Inputs that AWQ's kernel reads together.
_WORD = 4
# An int8 product of torch needs more tokens than this.
_INT_MM_ROWS = 16


class AwqLinear(RankLinear):
    """Int4 weights with a scale per group of inputs; inputs are multiplied by individual factors.

    weight int8 [out / 2, in], in row layout in the order of :func:`group_words`; weights_scaling_factor
    [out, in / group] and prequant_scaling_factor [in] in the engine's dtype.
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
        groups, pairs = _awq_sizes(config, inputs, outputs)
        self.in_words = layout == "rows" and has_words(inputs // groups)
        self.weight = frozen_parameter(torch.empty(pairs, inputs, dtype=torch.int8))
        self.weights_scaling_factor = frozen_parameter(torch.empty(outputs, groups, dtype=config.torch_dtype))
        self.prequant_scaling_factor = frozen_parameter(torch.empty(inputs, dtype=config.torch_dtype))

    @property
    def input_factors(self) -> Tensor:
        """What inputs are multiplied with, [in]."""
        return self.prequant_scaling_factor

    def factored(self, x: Tensor) -> Tensor:
        """x [..., in] times the factors."""
        return x * self.prequant_scaling_factor

    def product(self, x: Tensor) -> Tensor:
        """Factored x [..., in] -> [..., out]."""
        outputs, groups = self.weights_scaling_factor.shape
        weight = _inputs_in_order(self.weight, groups) if self.in_words else self.weight
        # The two halves of a byte are adjacent outputs: [out / 2, 2, groups].
        scale = self.weights_scaling_factor.unflatten(0, (-1, 2))
        halves = [half.unflatten(1, (groups, -1)) for half in linear.unpack_int4(weight)]
        if is_one_row(x):
            row, wide = _stored_once(x.float()).reshape(1, groups, -1), scale.float()
            sums = [
                (half.float() * row * wide[:, i, :, None]).sum(dim=(1, 2)) for i, half in enumerate(halves)
            ]
            return torch.stack(sums, dim=-1).to(x.dtype).view(*x.shape[:-1], outputs)
        parts = linear.tiles(len(self.weight), 4 * x.shape[-1])
        if not x.is_cuda and is_one_token_each(x) and len(parts) > 1:
            sums = [torch.cat([self._half(x, weight, part, i) for part in parts], dim=-1) for i in (0, 1)]
            return torch.stack(sums, dim=-1).flatten(-2)
        wide_weight = torch.stack(halves, dim=1).to(x.dtype) * scale[..., None]
        return F.linear(x, wide_weight.flatten(2).flatten(0, 1))

    def sums(self, others: Sequence[Self], xs: Sequence[Tensor]) -> list[Sums] | None:
        """As for all layers."""
        if not xs[0].is_cuda or not self.in_words or not is_one_token(xs[0], self.most_rows):
            return None
        from mmbuild.backends.torch.kernels.products import grouped_product

        layers = [self, *others]
        parts = grouped_product(
            [x.flatten(0, -2) for x in xs],
            [layer.weight for layer in layers],
            [layer.weights_scaling_factor for layer in layers],
            self.most_rows,
        )
        return [Sums(own) for own in parts.unbind(2)]

    def _half(self, x: Tensor, weight: Tensor, rows: slice, which: int) -> Tensor:
        """x [..., in] -> even (0) or odd (1) outputs [..., rows] of some rows of packed weights."""
        groups = self.weights_scaling_factor.shape[1]
        scale = self.weights_scaling_factor.unflatten(0, (-1, 2))[rows, which]
        values = linear.unpack_int4(weight[rows])[which].unflatten(1, (groups, -1))
        return F.linear(x, (values.to(x.dtype) * scale[..., None]).flatten(1))


def has_words(group: int) -> bool:
    """Whether groups of this many inputs are whole words of :func:`group_words`."""
    return group % _WORD == 0


def group_words(weight: Tensor, groups: int) -> Tensor:
    """AWQ's bytes [out / 2, in] -> the same in the order in which CUDA's kernel reads them together with x: byte i of
    word j of a group of g inputs holds input ``i * g / 4 + j`` of the group."""
    words = weight.unflatten(1, (groups, _WORD, -1)).transpose(2, 3)
    return words.flatten(1).contiguous()


def _inputs_in_order(words: Tensor, groups: int) -> Tensor:
    """The inverse of :func:`group_words`."""
    return words.unflatten(1, (groups, -1, _WORD)).transpose(2, 3).flatten(1)


def _awq_sizes(config: EngineConfig, inputs: int, outputs: int) -> tuple[int, int]:
    """Number of groups along the inputs and of bytes along the outputs.

    Raises:
        EngineError: MM543, groups do not divide the inputs; MM437, the number of outputs is odd.
    """
    name = f"a linear layer of {inputs} inputs and {outputs} outputs"
    try:
        return stored.groups(name, inputs, config.group_size), stored.packed_outputs(name, outputs)
    except CheckpointError as error:
        raise EngineError(error.message, code=error.code, hint=error.hint) from error


class SmoothQuantLinear(RankLinear):
    """Int8 weights with a scale per output; inputs are quantized to int8 per token; sums are int32.

    weight int8 [out, in], per_channel_scale float32 [1, out]; if ranks split the inputs, they are divided by smoother
    float32 [1, in].
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
        self.weight = frozen_parameter(torch.empty(outputs, inputs, dtype=torch.int8))
        self.per_channel_scale = frozen_parameter(torch.empty(1, outputs, dtype=torch.float32))
        self.smoother = frozen_parameter(torch.empty(1, inputs, dtype=torch.float32)) if reduce else None

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        values, scale = self._rounded(x)
        return (self._integer_sums(values).float() * scale * self.per_channel_scale[0]).to(x.dtype)

    def sums(self, others: Sequence[Self], xs: Sequence[Tensor]) -> list[Sums] | None:
        """As for all layers."""
        if not xs[0].is_cuda:
            return None
        from mmbuild.backends.torch.kernels.products import stored_product

        layers = [self, *others]
        rounded = [layer._rounded(x.flatten(0, -2)) for layer, x in zip(layers, xs, strict=True)]
        most = self.most_rows if is_one_token(xs[0], self.most_rows) else MOST_ROWS + 1
        parts = stored_product([values for values, _ in rounded], [layer.weight for layer in layers], most)
        return [
            Sums(own, scale[:, 0], layer.per_channel_scale[0])
            for own, (_, scale), layer in zip(parts.unbind(2), rounded, layers, strict=True)
        ]

    def _rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., in] -> int8 of the same shape, and the scale of each token, float32 [..., 1]."""
        wide = x.float() if self.smoother is None else x.float() / self.smoother[0]
        scale = wide.abs().amax(dim=-1, keepdim=True).clamp_min(_LEAST_SCALE) / _INT8_MAX
        return (wide / scale).round().to(torch.int8), scale

    def _integer_sums(self, values: Tensor) -> Tensor:
        """int8 [..., in] -> int32 [..., out], on the CPU."""
        if is_one_row(values):
            wide = _stored_once(values.int())
            return (wide[..., None, :] * self.weight.int()).sum(dim=-1, dtype=torch.int32)
        tokens = F.pad(values.flatten(0, -2), (0, 0, 0, _INT_MM_ROWS))
        sums = torch._int_mm(tokens, self.weight.t())[:-_INT_MM_ROWS]
        return sums.view(*values.shape[:-1], -1)


class Fp8Linear(RankLinear):
    """Float8 weights and, on CUDA, inputs rounded to float8; one float32 factor for each.

    weight float8_e4m3fn [out, in]. On the CPU inputs are not rounded. The factors are float32 [1].

    Whole prompts of engines in 16 bits are multiplied in float8 by cuBLAS without its fast accumulation (errors of
    2e-4 of the largest sum, measured on an H200; with it 5e-3). Engines in float32, and sizes that cuBLAS does not
    take, widen the weights.
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
        self.weights_scaling_factor = frozen_parameter(torch.empty(1, dtype=torch.float32))
        self.activation_scaling_factor = frozen_parameter(torch.empty(1, dtype=torch.float32))

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if self.rounds_inputs:
            unit, rounded = self.activation_scaling_factor[0], self._rounded(x)
            if x.is_cuda and self._in_float8(x.dtype):
                return self._scaled_product(rounded, x)
            x = (rounded.float() * unit).to(x.dtype)
        return self._widened(x, self.weights_scaling_factor[0])

    def sums(self, others: Sequence[Self], xs: Sequence[Tensor]) -> list[Sums] | None:
        """As for all layers."""
        if not xs[0].is_cuda or not self.rounds_inputs or not is_one_token(xs[0], self.most_rows):
            return None
        from mmbuild.backends.torch.kernels.products import stored_product

        layers = [self, *others]
        # float16 holds every float8.
        rows = [layer._rounded(x).half().flatten(0, -2) for layer, x in zip(layers, xs, strict=True)]
        parts = stored_product(rows, [layer.weight for layer in layers], self.most_rows)
        units = [layer.activation_scaling_factor * layer.weights_scaling_factor for layer in layers]
        return [
            Sums(own, unit.expand(own.shape[1])) for own, unit in zip(parts.unbind(2), units, strict=True)
        ]

    def _rounded(self, x: Tensor) -> Tensor:
        """x [..., in] in units of the inputs' factor, float8 of the same shape."""
        wide = x.float() / self.activation_scaling_factor[0]
        return wide.clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)

    def _in_float8(self, dtype: torch.dtype) -> bool:
        return dtype.itemsize == 2 and all(size % _FP8_UNIT == 0 for size in self.weight.shape)

    def _scaled_product(self, rounded: Tensor, x: Tensor) -> Tensor:
        """float8 [..., in] times the stored weights and both factors: [..., out] in x's dtype."""
        y = torch._scaled_mm(
            rounded.flatten(0, -2),
            self.weight.t(),
            scale_a=self.activation_scaling_factor,
            scale_b=self.weights_scaling_factor,
            out_dtype=x.dtype,
            use_fast_accum=False,
        )
        return y.view(*x.shape[:-1], y.shape[-1])

    def _widened(self, x: Tensor, scale: Tensor) -> Tensor:
        """x [..., in] times the dequantized weights (stored weights times ``scale``): [..., out] in x's dtype."""
        if is_one_row(x):
            sums = (_stored_once(x.float())[..., None, :] * self.weight.float()).sum(dim=-1)
            return (sums * scale).to(x.dtype)
        whole = x.is_cuda or not is_one_token_each(x)
        parts = [slice(None)] if whole else linear.tiles(len(self.weight), 4 * x.shape[-1])
        # Scaled before the product, because stored weights of up to 448 could overflow float16.
        sums = [F.linear(x, (self.weight[part].float() * scale).to(x.dtype)) for part in parts]
        return sums[0] if len(sums) == 1 else torch.cat(sums, dim=-1)


def _stored_once(x: Tensor) -> Tensor:
    """Force x into memory, contiguous, before it is used.

    Otherwise Inductor recomputes the operations that lead to x (division and rounding, a SiLU) for every output. It
    materializes strided views: int8 tokens take 1.3 ms instead of 4.1 for 4096 x 4096 on one core.
    """
    x = x.contiguous()
    return torch.as_strided(x, x.shape, x.stride())


_WEIGHT_ONLY = ("W8A16", "W4A16")
_CALIBRATED: Mapping[str, Callable[..., RankLinear]] = {
    "W4A16_AWQ": AwqLinear,
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": SmoothQuantLinear,
    "FP8": Fp8Linear,
}


def linear_maker(config: EngineConfig, layout: linear.Layout) -> MakeLinear:
    """Factory of linear layers for the checkpoint's quantization.

    Raises:
        EngineError: MM502, the quantization is not supported.
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
            hint=f"supported are {', '.join(['none', *_WEIGHT_ONLY, *_CALIBRATED])}",
        )
    kind = RowLinear if layout == "rows" else PlainLinear
    return partial(kind, config, algorithm)


def check_target(config: EngineConfig, target: Mapping[str, Any]) -> None:
    """Check that the GPU supports the checkpoint's number format.

    Args:
        config: The engine's config.
        target: ``{"device", "sm", ...}``; a missing SM is not checked.

    Raises:
        EngineError: MM545, FP8 below SM 89.
    """
    sm = target.get("sm")
    if config.quant_algo == "FP8" and target["device"] == "cuda" and sm is not None and sm < FLOAT8_FROM_SM:
        raise EngineError(
            f"FP8 needs a GPU of SM {FLOAT8_FROM_SM} or later, but the target is SM {sm}",
            code="MM545",
            hint="use int4_awq or int8, or name another GPU in target",
        )
