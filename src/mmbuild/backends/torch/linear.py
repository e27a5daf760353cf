"""Linear layers, unquantized and weight-only quantized, for CPU and CUDA.

Weights have the checkpoint's names, so a rank file's tensors are passed to a compiled package without renaming. One
token of a few sequences is memory-bound, so stored weights are read once: on CUDA in a Triton kernel
(:mod:`mmbuild.backends.torch.kernels.products`), on the CPU, for one sequence, in a reduction that Inductor fuses.
For other shapes quantized layers widen the weights and use a matrix product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.distributed.collectives import all_reduce
from mmbuild.backends.torch.kernels import MOST_ROWS
from mmbuild.models.errors import EngineError


class MakeLinear(Protocol):
    """Factory of linear layers with the model's quantization."""

    def __call__(
        self, inputs: int, outputs: int, *, bias: bool = False, reduce: bool = False
    ) -> RankLinear: ...


def frozen_parameter(tensor: Tensor) -> nn.Parameter:
    """A weight. Not a buffer, because Inductor copies the values of buffers: large, and uninitialized here."""
    return nn.Parameter(tensor, requires_grad=False)


class RankLinear(nn.Module, ABC):
    """A rank's part of a linear layer: the product, the sum over ranks if inputs are split, then the bias.

    Subclasses create ``weight``. If inputs are split, every rank has the whole bias [out], so it is added after the
    sum.

    Attributes:
        most_rows: The most sequences that the engine decodes together.
    """

    bias: Tensor | None

    def __init__(self, config: EngineConfig, outputs: int, *, bias: bool, reduce: bool) -> None:
        super().__init__()
        self.ranks = config.tensor_parallel if reduce else 1
        self.most_rows = config.sequences
        self.bias = frozen_parameter(torch.empty(outputs, dtype=config.torch_dtype)) if bias else None

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        y = all_reduce(self.product(x), self.ranks)
        return y if self.bias is None else y + self.bias


class Linear(RankLinear):
    """``y = x @ weight.T``; weight [out, in] in the engine's dtype."""

    def __init__(self, config: EngineConfig, layout: Layout, inputs: int, outputs: int, **rest: bool) -> None:
        super().__init__(config, outputs, **{"bias": False, "reduce": False, **rest})
        self.layout = layout
        self.weight = frozen_parameter(torch.empty(outputs, inputs, dtype=config.torch_dtype))

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return self._rows(x, self.weight)

    def part(self, x: Tensor, first: int, last: int) -> Tensor:
        """Outputs ``first`` to ``last``, biases included: x [..., in] -> [..., last - first]."""
        y = self._rows(x, self.weight[first:last])
        return y if self.bias is None else y + self.bias[first:last]

    def _rows(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.layout == "rows" and is_one_token(x, self.most_rows):
            from mmbuild.backends.torch.kernels.products import stored_product

            return joined(stored_product(x.flatten(0, -2), weight, self.most_rows), x)
        return F.linear(x, weight)


class PlainLinear(RankLinear):
    """Weight-only in plain layout: ``y = (x @ weight) * per_channel_scale``, scale [out] in the engine's dtype."""

    def __init__(
        self, config: EngineConfig, quant_algo: str, inputs: int, outputs: int, **rest: bool
    ) -> None:
        super().__init__(config, outputs, **{"bias": False, "reduce": False, **rest})
        self.quant_algo = quant_algo
        columns = outputs if quant_algo == "W8A16" else outputs // 2
        self.weight = frozen_parameter(torch.empty(inputs, columns, dtype=torch.int8))
        self.per_channel_scale = frozen_parameter(torch.empty(outputs, dtype=config.torch_dtype))

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if self.quant_algo == "W8A16":
            y = _product(x, self.weight)
        else:
            # Even and odd columns separately, because interleaving results is cheaper than interleaving weights.
            halves = [_product(x, half) for half in unpack_int4(self.weight)]
            y = torch.stack(halves, dim=-1).flatten(-2)
        return (y * self.per_channel_scale.to(y.dtype)).to(x.dtype)


class RowLinear(RankLinear):
    """Weight-only in row layout; the same function as :class:`PlainLinear`."""

    def __init__(
        self, config: EngineConfig, quant_algo: str, inputs: int, outputs: int, **rest: bool
    ) -> None:
        super().__init__(config, outputs, **{"bias": False, "reduce": False, **rest})
        self.quant_algo = quant_algo
        words = words_per_row(inputs, quant_algo)
        if not words:
            raise EngineError(
                f"a linear layer with {inputs} inputs does not fill whole 32-bit words in {quant_algo}",
                code="MM537",
                hint="on CUDA, int8 needs a multiple of 4 inputs and int4 a multiple of 8; use another quantization",
            )
        self.weight = frozen_parameter(torch.empty(outputs, words, dtype=torch.int32))
        self.per_channel_scale = frozen_parameter(torch.empty(outputs, dtype=config.torch_dtype))

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if x.is_cuda and is_one_token(x, self.most_rows):
            from mmbuild.backends.torch.kernels.products import packed_product

            parts = packed_product(x.flatten(0, -2), self.weight, self.quant_algo, self.most_rows)
            return joined(parts, x, self.per_channel_scale)
        return F.linear(x, widen_rows(self.weight, self.quant_algo, x.dtype)) * self.per_channel_scale


def joined(parts: Tensor, x: Tensor, *factors: Tensor) -> Tensor:
    """The sum of a product's parts [parts, rows, out], times factors that broadcast to [rows, out], as the result for
    x [..., in]: [..., out] in x's dtype."""
    # In this order always, and written out, because Inductor merges it into whatever reads the result.
    sums, *rest = parts.unbind()
    for part in rest:
        sums = sums + part
    total = sums.float()
    for factor in factors:
        total = total * factor.float()
    return total.to(x.dtype).view(*x.shape[:-1], total.shape[-1])


def is_one_token(x: Tensor, most_rows: int) -> bool:
    """Whether x [B, 1, in] or [B, in] is one token of each of a few sequences."""
    # During export a dynamic size is not an int; comparing it with 1 would specialize it.
    one = all(isinstance(size, int) and size == 1 for size in x.shape[1:-1])
    return one and most_rows <= MOST_ROWS


def is_one_row(x: Tensor) -> bool:
    """Whether x statically has a single row: one token of one sequence."""
    # During export a dynamic size is not an int; comparing it with 1 would specialize it.
    return all(isinstance(size, int) and size == 1 for size in x.shape[:-1])


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times integers [in, out] -> [..., out]; in float32 if x is one row, else in x's dtype.

    One row is summed in blocks of inputs: the vectorized loop processes a few columns at a time, and a block stays in
    the L1 cache until all columns of its cache lines are done.
    """
    if not is_one_row(x):
        return x @ weight.to(x.dtype)
    inputs, outputs = weight.shape
    rows = block_rows(inputs)
    blocks = weight.reshape(inputs // rows, rows, outputs)
    y = (x.reshape(-1, rows, 1).float() * blocks.float()).sum(dim=1).sum(dim=0)
    return y.view(*x.shape[:-1], -1)


def block_rows(inputs: int) -> int:
    """Block size of the sum: the smallest divisor of ``inputs`` that is at least 64, else ``inputs``."""
    return next((rows for rows in range(64, inputs) if inputs % rows == 0), inputs)


Layout = Literal["plain", "rows"]


def layout_of(device: str) -> Layout:
    """Weight layout of packages for ``device``."""
    return "rows" if device == "cuda" else "plain"


def unpack_int4(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Plain int4 [in, out / 2] -> even and odd columns, int32 [in, out / 2] each, in [-8, 7].

    Arithmetic shifts extend the sign of each nibble. Uses 32 bits, because CPUs have no vector shifts of bytes.
    """
    wide = packed.int()
    return (wide << 28) >> 28, wide >> 4


def widen_plain(weight: Tensor, quant_algo: str) -> Tensor:
    """Plain layout of ``W8A16`` or ``W4A16`` -> int8 [in, out]."""
    if quant_algo == "W8A16":
        return weight
    return torch.stack([half.to(torch.int8) for half in unpack_int4(weight)], dim=-1).flatten(-2)


def pack_rows(values: Tensor, quant_algo: str) -> Tensor:
    """int8 [in, out] -> row layout, int32 [out, in / 4] (``W8A16``) or [out, in / 8] (``W4A16``)."""
    bits = _BITS[quant_algo]
    words = torch.zeros_like(values[: values.shape[0] * bits // 32], dtype=torch.int32)
    for part, chunk in enumerate(values.chunk(32 // bits)):
        words |= (chunk.int() & ((1 << bits) - 1)) << (bits * part)
    return words.t().contiguous()


def widen_rows(words: Tensor, quant_algo: str, dtype: torch.dtype) -> Tensor:
    """Row layout -> [out, in] in ``dtype``, the inverse of :func:`pack_rows` except for the transposition."""
    bits = _BITS[quant_algo]
    if words.is_cuda:
        from mmbuild.backends.torch.kernels.widen import widen

        return widen(words, bits, dtype)
    parts = [(words << (32 - bits * (part + 1))) >> (32 - bits) for part in range(32 // bits)]
    return torch.cat(parts, dim=-1).to(dtype)


_BITS = {"W8A16": 8, "W4A16": 4}


def words_per_row(inputs: int, quant_algo: str) -> int:
    """int32 words per row of ``inputs`` weights; 0 if they do not fill whole words."""
    per_word = 32 // _BITS[quant_algo]
    return 0 if inputs % per_word else inputs // per_word
