"""Linear layers, unquantized and weight-only quantized, for CPU and CUDA.

Weights have the checkpoint's names, so a rank file's tensors are passed to a compiled package without renaming. One
token of a few sequences is memory-bound, so stored weights are read once: on CUDA in a Triton kernel
(:mod:`mmbuild.backends.torch.kernels.products`), on the CPU, for one sequence, in a reduction that Inductor fuses.
For other shapes quantized layers widen the weights and use a matrix product; for a token of each of several sequences
on the CPU, in tiles that stay in its cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.distributed.collectives import all_reduce
from mmbuild.backends.torch.kernels import MOST_ROWS
from mmbuild.base.limits import MB
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

    def factored(self, x: Tensor) -> Tensor:
        """x [..., in] times what the layer multiplies its inputs with, if anything."""
        return x

    @property
    def input_factors(self) -> Tensor | None:
        """What :meth:`factored` multiplies with, [in]."""
        return None

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """Factored x [..., in] -> [..., out]."""

    def sums(self, others: Sequence[Self], xs: Sequence[Tensor]) -> list[Sums] | None:  # noqa: ARG002
        """Products of this layer and others of the same sizes by one kernel.

        Args:
            others: The other layers.
            xs: Factored inputs [..., in] of this layer and each of the others.

        Returns:
            Of each; None where there is no kernel for such inputs.
        """
        return None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return self.of_factored(self.factored(x))

    def of_factored(self, x: Tensor) -> Tensor:
        """The output for factored x."""
        sums = self.sums([], [x])
        return self.finish(self.product(x) if sums is None else joined(sums[0], x))

    def finish(self, product: Tensor) -> Tensor:
        """The product of this rank [..., out] -> the layer's output."""
        y = all_reduce(product, self.ranks)
        return y if self.bias is None else y + self.bias


def both(first: RankLinear, second: RankLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    """What two layers of the same sizes and format make of x [..., in], by one kernel where there is one."""
    rows = first.factored(x), second.factored(x)
    sums = first.sums([second], rows)
    if sums is None:
        return first.of_factored(rows[0]), second.of_factored(rows[1])
    return first.finish(joined(sums[0], x)), second.finish(joined(sums[1], x))


class Linear(RankLinear):
    """``y = x @ weight.T``; weight [out, in] in the engine's dtype."""

    def __init__(self, config: EngineConfig, layout: Layout, inputs: int, outputs: int, **rest: bool) -> None:
        super().__init__(config, outputs, **{"bias": False, "reduce": False, **rest})
        self.layout = layout
        self.weight = frozen_parameter(torch.empty(outputs, inputs, dtype=config.torch_dtype))

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return F.linear(x, self.weight)

    def sums(self, others: Sequence[Self], xs: Sequence[Tensor]) -> list[Sums] | None:
        """As for all layers."""
        return self._sums([layer.weight for layer in (self, *others)], xs)

    def part(self, x: Tensor, first: int, last: int) -> Tensor:
        """Outputs ``first`` to ``last``, biases included: x [..., in] -> [..., last - first]."""
        sums, weight = self._sums([self.weight[first:last]], [x]), self.weight[first:last]
        y = F.linear(x, weight) if sums is None else joined(sums[0], x)
        return y if self.bias is None else y + self.bias[first:last]

    def _sums(self, weights: list[Tensor], xs: Sequence[Tensor]) -> list[Sums] | None:
        if self.layout != "rows" or not is_one_token(xs[0], self.most_rows):
            return None
        from mmbuild.backends.torch.kernels.products import stored_product

        parts = stored_product([x.flatten(0, -2) for x in xs], weights, self.most_rows)
        return [Sums(own) for own in parts.unbind(2)]


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
            y = _product(x, self.weight, lambda stored: stored)
        else:
            # Even and odd columns separately, because interleaving results is cheaper than interleaving weights.
            halves = [_product(x, self.weight, partial(_half, which=which)) for which in (0, 1)]
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
        return F.linear(x, widen_rows(self.weight, self.quant_algo, x.dtype)) * self.per_channel_scale

    def sums(self, others: Sequence[Self], xs: Sequence[Tensor]) -> list[Sums] | None:
        """As for all layers."""
        if not xs[0].is_cuda or not is_one_token(xs[0], self.most_rows):
            return None
        from mmbuild.backends.torch.kernels.products import packed_product

        layers = [self, *others]
        rows, weights = [x.flatten(0, -2) for x in xs], [layer.weight for layer in layers]
        parts = packed_product(rows, weights, self.quant_algo, self.most_rows)
        return [
            Sums(own, factors=layer.per_channel_scale)
            for own, layer in zip(parts.unbind(2), layers, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Sums:
    """What a kernel leaves of a product: sums of parts of the inputs, and what their sum is to be multiplied with.

    Attributes:
        parts: float32, or int32 for integers, [parts, rows, out].
        row_factors: [rows], with any stride.
        factors: [out].
    """

    parts: Tensor
    row_factors: Tensor | None = None
    factors: Tensor | None = None


def joined(sums: Sums, x: Tensor) -> Tensor:
    """The product as the result for x [..., in]: [..., out] in x's dtype."""
    # In this order always, and written out, because Inductor merges it into whatever reads the result.
    first, *rest = sums.parts.unbind()
    for part in rest:
        first = first + part
    total = first.float()
    if sums.row_factors is not None:
        total = total * sums.row_factors[:, None]
    if sums.factors is not None:
        total = total * sums.factors.float()
    return total.to(x.dtype).view(*x.shape[:-1], total.shape[-1])


def is_one_token(x: Tensor, most_rows: int) -> bool:
    """Whether x [B, 1, in] or [B, in] is one token of each of a few sequences."""
    return is_one_token_each(x) and most_rows <= MOST_ROWS


def is_one_token_each(x: Tensor) -> bool:
    """Whether x [B, 1, in] or [B, in] is one token of each of any number of sequences."""
    # During export a dynamic size is not an int; comparing it with 1 would specialize it.
    return all(isinstance(size, int) and size == 1 for size in x.shape[1:-1])


def is_one_row(x: Tensor) -> bool:
    """Whether x statically has a single row: one token of one sequence."""
    # During export a dynamic size is not an int; comparing it with 1 would specialize it.
    return all(isinstance(size, int) and size == 1 for size in x.shape[:-1])


def _half(packed: Tensor, which: int) -> Tensor:
    return unpack_int4(packed)[which]


def _product(x: Tensor, stored: Tensor, values: Callable[[Tensor], Tensor]) -> Tensor:
    """x [..., in] times integers [in, out] -> [..., out]; in float32 if x is one row or weights are tiled, else in
    x's dtype.

    One row is summed in blocks of inputs: the vectorized loop processes a few columns at a time, and a block stays in
    the L1 cache until all columns of its cache lines are done. A token of each of several sequences widens a tile of
    weights at a time.

    Args:
        x: Inputs.
        stored: Stored weights [in, columns].
        values: Integers [rows, out] of some of their rows.
    """
    if not is_one_row(x):
        parts = tiles(stored.shape[0], 4 * stored.shape[1]) if is_one_token_each(x) else []
        return _tiled_product(x, stored, values, parts) if len(parts) > 1 else x @ values(stored).to(x.dtype)
    weight = values(stored)
    inputs, outputs = weight.shape
    rows = block_rows(inputs)
    blocks = weight.reshape(inputs // rows, rows, outputs)
    y = (x.reshape(-1, rows, 1).float() * blocks.float()).sum(dim=1).sum(dim=0)
    return y.view(*x.shape[:-1], -1)


def _tiled_product(
    x: Tensor, stored: Tensor, values: Callable[[Tensor], Tensor], parts: Sequence[slice]
) -> Tensor:
    """The sum of products with tiles of the inputs, float32 [..., out]."""
    rows, first = x.flatten(0, -2).float(), parts[0]
    total = rows[:, first] @ values(stored[first]).float()
    for part in parts[1:]:
        total = torch.addmm(total, rows[:, part], values(stored[part]).float())
    return total.view(*x.shape[:-1], -1)


_TILE_BYTES = 5 * MB
"""Widened weights that stay in the cache until they are multiplied. The C library also keeps memory of this size for
the next tile; larger pieces are new pages of the system each time, which cost more than the products (4096 x 11008 in
int8 for 8 rows: 22 ms in tiles, 110 ms as a whole)."""


def tiles(rows: int, row_bytes: int) -> list[slice]:
    """Parts of ``rows`` rows, of ``row_bytes`` each when they are widened, that fill a tile at most."""
    size = max(1, _TILE_BYTES // row_bytes)
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


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
