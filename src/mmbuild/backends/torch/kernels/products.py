"""Products of a few rows with a weight matrix, for decoding: every weight is read once.

Weights are the left operand of the tensor cores (16 outputs at least), rows the right one (8 at least), so eight rows
cost what one costs. Weights go from memory through shared memory to registers, and become numbers there: nothing
widened is ever written. A program adds up a part of the inputs for a block of outputs. The parts are added by the
caller, in one order, so results do not depend on timing.

Programs with the same outputs run next to each other, so that the rows of a whole prompt read every weight once, too.

A kernel multiplies one or two pairs of rows and weights of the same sizes, because two products that follow each
other in a layer take less time as one.

The sizes of blocks are the fastest of those that were timed on an H200 with the matrices of a 7B LLaMA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from mmbuild.backends.torch.kernels import MOST_ROWS, starts_early
from mmbuild.backends.torch.kernels.configured import ceiling, configured
from mmbuild.backends.torch.kernels.dependent_launch import let_next_start, wait_for_previous
from mmbuild.backends.torch.kernels.unpack import nibble, part_of_word


@triton.jit
def _packed_product(
    x_ptr,
    w_ptr,
    x2_ptr,
    w2_ptr,
    out_ptr,
    PAIRS,
    M,
    N,
    W,
    PART,
    BITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    EARLY: tl.constexpr,
):
    """x [M, W * 32 / BITS], w int32 [N, W], number i of word j for input i * W + j -> out float32
    [parts, M, PAIRS, N]."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    blocks = tl.cdiv(N, BLOCK_N)
    second = tl.program_id(1) >= blocks
    if second:
        x_ptr, w_ptr = x2_ptr, w2_ptr
    n = (tl.program_id(1) - tl.where(second, blocks, 0)) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(2) * PART
    last = tl.minimum(first + PART, W)
    wait_for_previous(EARLY)
    rows = x_ptr + m[None, :] * (W * (32 // BITS))
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for offset in range(first, last, BLOCK_W):
        j = offset + tl.arange(0, BLOCK_W)
        w = tl.load(w_ptr + n[:, None] * W + j[None, :], (n < N)[:, None] & (j < last)[None, :], 0)
        for i in tl.static_range(32 // BITS):
            x = tl.load(rows + i * W + j[:, None], (m < M)[None, :] & (j < last)[:, None], 0.0)
            acc = tl.dot(part_of_word(w, i, BITS, x.dtype), x, acc, input_precision="ieee")
    let_next_start(EARLY)
    places = out_ptr + ((tl.program_id(2) * M + m[None, :]) * PAIRS + tl.where(second, 1, 0)) * N + n[:, None]
    tl.store(places, acc, (n < N)[:, None] & (m < M)[None, :])


@triton.jit
def _grouped_product(
    x_ptr,
    w_ptr,
    scale_ptr,
    x2_ptr,
    w2_ptr,
    scale2_ptr,
    out_ptr,
    PAIRS,
    M,
    P,
    W,
    G,
    PART,
    PER_GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    EARLY: tl.constexpr,
):
    """x [M, 4 * W], w bytes [P, 4 * W], scale [2 * P, G], PER_GROUP words a group, PART groups a program -> out
    float32 [parts, M, PAIRS, 2 * P].

    Byte i of word j of a group holds input i * PER_GROUP + j of that group for two outputs, the even one in the low
    nibble.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    blocks = tl.cdiv(P, BLOCK_N)
    second = tl.program_id(1) >= blocks
    if second:
        x_ptr, w_ptr, scale_ptr = x2_ptr, w2_ptr, scale2_ptr
    n = (tl.program_id(1) - tl.where(second, blocks, 0)) * BLOCK_N + tl.arange(0, BLOCK_N)
    words = w_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    first = tl.program_id(2) * PART
    last = tl.minimum(first + PART, G)
    even_scales, odd_scales = scale_ptr + 2 * n * G, scale_ptr + (2 * n + 1) * G
    even_scale, odd_scale = tl.load(even_scales + first, n < P, 0.0), tl.load(odd_scales + first, n < P, 0.0)
    wait_for_previous(EARLY)
    rows = x_ptr + m[None, :] * (4 * W)
    even = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    odd = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    within = tl.arange(0, BLOCK_W)
    for group in range(first, last):
        # Asked for before they are needed, because reads that are not operands of dot are waited for.
        next_live = (n < P) & (group + 1 < last)
        next_even = tl.load(even_scales + group + 1, next_live, 0.0)
        next_odd = tl.load(odd_scales + group + 1, next_live, 0.0)
        j = group * PER_GROUP + within
        w = tl.load(words + n[:, None] * W + j[None, :], (n < P)[:, None] & (within < PER_GROUP)[None, :], 0)
        even_sum = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        odd_sum = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for i in tl.static_range(4):
            k = (4 * group + i) * PER_GROUP + within
            x = tl.load(rows + k[:, None], (m < M)[None, :] & (within < PER_GROUP)[:, None], 0.0)
            half = (w >> 16 * (i // 2)).to(tl.int16)
            even_sum = tl.dot(nibble(half, i % 2 * 2, x.dtype), x, even_sum, input_precision="ieee")
            odd_sum = tl.dot(nibble(half, i % 2 * 2 + 1, x.dtype), x, odd_sum, input_precision="ieee")
        even += even_sum * even_scale.to(tl.float32)[:, None]
        odd += odd_sum * odd_scale.to(tl.float32)[:, None]
        even_scale, odd_scale = next_even, next_odd
    let_next_start(EARLY)
    row = (tl.program_id(2) * M + m[None, :]) * PAIRS + tl.where(second, 1, 0)
    places = out_ptr + row * (2 * P) + 2 * n[:, None]
    live = (n < P)[:, None] & (m < M)[None, :]
    tl.store(places, even, live)
    tl.store(places + 1, odd, live)


@triton.jit
def _stored_product(
    x_ptr,
    w_ptr,
    x2_ptr,
    w2_ptr,
    out_ptr,
    PAIRS,
    M,
    N,
    K,
    PART,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
):
    """x [M, K], w [N, K] in a dtype that x's holds -> out float32, or int32 for integers, [parts, M, PAIRS, N]."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    blocks = tl.cdiv(N, BLOCK_N)
    second = tl.program_id(1) >= blocks
    if second:
        x_ptr, w_ptr = x2_ptr, w2_ptr
    n = (tl.program_id(1) - tl.where(second, blocks, 0)) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(2) * PART
    last = tl.minimum(first + PART, K)
    wait_for_previous(EARLY)
    acc = tl.zeros((BLOCK_N, BLOCK_M), out_ptr.dtype.element_ty)
    for offset in range(first, last, BLOCK_K):
        k = offset + tl.arange(0, BLOCK_K)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], (n < N)[:, None] & (k < last)[None, :], 0.0)
        x = tl.load(x_ptr + m[None, :] * K + k[:, None], (m < M)[None, :] & (k < last)[:, None], 0.0)
        acc = tl.dot(w.to(x.dtype), x, acc, input_precision="ieee", out_dtype=out_ptr.dtype.element_ty)
    let_next_start(EARLY)
    places = out_ptr + ((tl.program_id(2) * M + m[None, :]) * PAIRS + tl.where(second, 1, 0)) * N + n[:, None]
    tl.store(places, acc, (n < N)[:, None] & (m < M)[None, :])


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product is divided.

    Attributes:
        rows: Rows of x of a program, a power of two from 8.
        outputs: Outputs of a program (of stored rows: AWQ's hold two outputs each), a power of two.
        width: Bytes of a stored row that a program reads at once, a power of two.
        warps: Warps of a program.
        stages: Reads under way at once.
        longest: Reads one after the other above which a program's part is divided once more, up to twice as many
            warps as others make do with.
    """

    rows: int
    outputs: int
    width: int
    warps: int
    stages: int
    longest: int | None = None


# By format, then by the most rows.
_TILES: Mapping[str, tuple[Tiles, ...]] = {
    "float": (Tiles(8, 32, 256, 2, 3), Tiles(16, 64, 256, 4, 4), Tiles(32, 64, 256, 4, 4)),
    "W8A16": (Tiles(8, 32, 256, 2, 3), Tiles(16, 64, 256, 4, 3), Tiles(32, 64, 128, 4, 4)),
    "W4A16": (Tiles(8, 32, 256, 2, 3), Tiles(16, 64, 128, 2, 3), Tiles(32, 64, 128, 4, 3)),
    "groups": (Tiles(8, 32, 128, 2, 3, longest=8), Tiles(16, 64, 128, 4, 3), Tiles(32, 64, 128, 4, 3)),
    "int8": (Tiles(8, 32, 256, 2, 3), Tiles(16, 64, 256, 4, 3), Tiles(32, 64, 256, 4, 3)),
    "float8": (Tiles(8, 32, 256, 2, 3), Tiles(16, 64, 256, 2, 3), Tiles(32, 32, 128, 2, 4)),
}
# For the rows of whole prompts.
_INT8_PROMPTS = Tiles(128, 128, 128, 8, 3)
# Enough warps for a GPU of 132 multiprocessors to have all of its memory's bandwidth under way.
_WARPS = 1024
_MOST_PARTS = 8
_LEAST_DEPTH = 16
_WORD = 4


def _tiles(kind: str, most_rows: int) -> Tiles:
    known = _TILES[kind]
    return next((tiles for tiles in known if most_rows <= tiles.rows), known[-1])


def _parts(outputs: int, blocks: int, tiles: Tiles) -> tuple[int, int]:
    """How many parts the blocks along the inputs are divided into, and the blocks of a part."""
    programs, parts = ceiling(outputs, tiles.outputs), 1
    while parts < min(_MOST_PARTS, blocks) and programs * parts * tiles.warps < _WARPS:
        parts *= 2
    long = tiles.longest is not None and ceiling(blocks, parts) > tiles.longest
    if long and 2 * programs * parts * tiles.warps <= 2 * _WARPS:
        parts *= 2
    each = ceiling(blocks, parts)
    return ceiling(blocks, each), each


@triton_op("mmbuild::packed_product", mutates_args={})
def packed_product(xs: list[Tensor], weights: list[Tensor], quant_algo: str, most_rows: int) -> Tensor:
    """x [M, in], rows int32 [out, words] of ``W8A16`` or ``W4A16`` (``linear.pack_rows``) -> float32
    [parts, M, pairs, out].

    Of all products x may have any strides; weights are contiguous; there are one or two pairs of both.

    Args:
        xs: Up to ``most_rows`` rows each, float16, bfloat16 or float32.
        weights: Packed integers, not scaled.
        quant_algo: Their format.
        most_rows: What the sizes of blocks are chosen for.
    """
    (rows, _), (outputs, words) = xs[0].shape, weights[0].shape
    tiles = _tiles(quant_algo, most_rows)
    block = tiles.width // _WORD
    parts, each = _parts(outputs * len(weights), ceiling(words, block), tiles)
    out = _sums(xs, outputs, parts, torch.float32)
    kernel = configured(
        _packed_product,
        tiles.warps,
        tiles.stages,
        BITS=4 if quant_algo == "W4A16" else 8,
        BLOCK_M=tiles.rows,
        BLOCK_N=tiles.outputs,
        BLOCK_W=block,
        EARLY=starts_early(),
    )
    wrap_triton(kernel)[_grid(tiles, rows, outputs, len(xs), parts)](
        *_operands(xs, weights), out, len(xs), rows, outputs, words, each * block
    )
    return out


@triton_op("mmbuild::grouped_product", mutates_args={})
def grouped_product(xs: list[Tensor], weights: list[Tensor], scales: list[Tensor], most_rows: int) -> Tensor:
    """AWQ's product: x [M, in] (scaled), weight int8 [out / 2, in] (``calibrated_linear.group_words``), scale
    [out, in / group] -> float32 [parts, M, pairs, out].

    A group must be a whole number of words (4 inputs each).
    """
    (pairs, inputs), groups = weights[0].shape, scales[0].shape[1]
    rows, words = xs[0].shape[0], inputs // _WORD
    tiles = _tiles("groups", most_rows)
    parts, each = _parts(pairs * len(weights), groups, tiles)
    out = _sums(xs, 2 * pairs, parts, torch.float32)
    kernel = configured(
        _grouped_product,
        tiles.warps,
        tiles.stages,
        PER_GROUP=words // groups,
        BLOCK_M=tiles.rows,
        BLOCK_N=tiles.outputs,
        BLOCK_W=max(_LEAST_DEPTH, triton.next_power_of_2(words // groups)),
        EARLY=starts_early(),
    )
    wrap_triton(kernel)[_grid(tiles, rows, pairs, len(xs), parts)](
        *_operands(xs, weights, scales), out, len(xs), rows, pairs, words, groups, each
    )
    return out


@triton_op("mmbuild::stored_product", mutates_args={})
def stored_product(xs: list[Tensor], weights: list[Tensor], most_rows: int) -> Tensor:
    """x [M, in], weight [out, in] -> [parts, M, pairs, out], int32 if both are int8, else float32.

    x has the weight's dtype, or is float16 for a float8 weight. For int8 there may be any number of rows.
    """
    (rows, inputs), outputs, dtype = xs[0].shape, weights[0].shape[0], weights[0].dtype
    integers = dtype == torch.int8
    kind = "int8" if integers else "float8" if dtype == torch.float8_e4m3fn else "float"
    tiles = _INT8_PROMPTS if most_rows > MOST_ROWS else _tiles(kind, most_rows)
    block = tiles.width // weights[0].element_size()
    parts, each = (1, ceiling(inputs, block))
    if most_rows <= MOST_ROWS:
        parts, each = _parts(outputs * len(weights), each, tiles)
    out = _sums(xs, outputs, parts, torch.int32 if integers else torch.float32)
    kernel = configured(
        _stored_product,
        tiles.warps,
        tiles.stages,
        BLOCK_M=tiles.rows,
        BLOCK_N=tiles.outputs,
        BLOCK_K=block,
        EARLY=starts_early(),
    )
    wrap_triton(kernel)[_grid(tiles, rows, outputs, len(xs), parts)](
        *_operands(xs, weights), out, len(xs), rows, outputs, inputs, each * block
    )
    return out


def _sums(xs: Sequence[Tensor], outputs: int, parts: int, dtype: torch.dtype) -> Tensor:
    """What a kernel writes."""
    return torch.empty(parts, xs[0].shape[0], len(xs), outputs, dtype=dtype, device=xs[0].device)


def _operands(xs: Sequence[Tensor], *others: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The first pair, then the second, or the first once more."""
    rows = [x.contiguous() for x in xs]
    return tuple(values[place] for place in (0, -1) for values in (rows, *others))


def _grid(tiles: Tiles, rows: int, outputs: int, pairs: int, parts: int) -> tuple[int, int, int]:
    return ceiling(rows, tiles.rows), pairs * ceiling(outputs, tiles.outputs), parts
