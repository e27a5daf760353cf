"""Where weights lie in memory: the checkpoint's plain layout, and the row layout that CUDA kernels read.

*plain* is what checkpoints hold and what the CPU runs from the mapped file: int8 [in, out], int4 two columns a
byte [in, out / 2], low nibble first. *rows* is int32 [out, in / per_word]: a row's weights lie together, and part i
of word j is input ``i * words + j``, so that neighbouring threads read neighbouring words of weights *and*
neighbouring inputs. A session packs rows on the GPU when it loads; nothing is stored twice.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Layout = Literal["plain", "rows"]


def layout_of(device: str) -> Layout:
    """The layout that packages for ``device`` are compiled for."""
    return "rows" if device == "cuda" else "plain"


def unpack_int4(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Plain int4 [in, out / 2] -> its even and its odd columns, int32 [in, out / 2] each, in [-8, 7].

    Arithmetic shifts extend the sign of either nibble. In 32 bits: CPUs have no vector shifts of bytes.
    """
    wide = packed.int()
    return (wide << 28) >> 28, wide >> 4


def widen_plain(weight: Tensor, quant_algo: str) -> Tensor:
    """Plain integers of ``W8A16`` or ``W4A16`` -> int8 [in, out]."""
    if quant_algo == "W8A16":
        return weight
    return torch.stack([half.to(torch.int8) for half in unpack_int4(weight)], dim=-1).flatten(-2)


def pack_rows(values: Tensor, quant_algo: str) -> Tensor:
    """int8 [in, out] -> rows, int32 [out, in / 4] (``W8A16``) or [out, in / 8] (``W4A16``)."""
    bits = _BITS[quant_algo]
    words = torch.zeros_like(values[: values.shape[0] * bits // 32], dtype=torch.int32)
    for part, chunk in enumerate(values.chunk(32 // bits)):
        words |= (chunk.int() & ((1 << bits) - 1)) << (bits * part)
    return words.t().contiguous()


def widen_rows(words: Tensor, quant_algo: str) -> Tensor:
    """Rows -> int8 [out, in], the inverse of :func:`pack_rows` up to the transposition."""
    bits = _BITS[quant_algo]
    parts = [(words << (32 - bits * (part + 1))) >> (32 - bits) for part in range(32 // bits)]
    return torch.cat([part.to(torch.int8) for part in parts], dim=-1)


_BITS = {"W8A16": 8, "W4A16": 4}


def words_per_row(inputs: int, quant_algo: str) -> int:
    """int32 words that hold a row of ``inputs`` weights, or 0 where they do not fill whole words."""
    per_word = 32 // _BITS[quant_algo]
    return 0 if inputs % per_word else inputs // per_word
