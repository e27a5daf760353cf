"""Which ranges of cache rows a call computes, and where its sequences lie in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmbuild.backends.torch.host_copy import on_device

Rows = tuple[int, int]
"""A range of cache rows: the first, and the one after the last."""

Spans = list[tuple[list[int], Rows]]


def spans(rows: Sequence[int]) -> Spans:
    """Ranges of consecutive rows, each with the places in ``rows`` of its members."""
    found: Spans = []
    for place in sorted(range(len(rows)), key=rows.__getitem__):
        row = rows[place]
        if found and found[-1][1][1] == row:
            places, (first, _) = found[-1]
            found[-1] = ([*places, place], (first, row + 1))
        else:
            found.append(([place], (row, row + 1)))
    return found


def in_order(parts: Sequence[Tensor], found: Spans) -> Tensor:
    """The results of spans in the order of the rows that were given."""
    order = [place for places, _ in found for place in places]
    if len(parts) == 1 and order == sorted(order):
        return parts[0]
    joined = torch.cat(list(parts))
    return torch.empty_like(joined).index_copy(0, on_device(order, joined.device.type), joined)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the sequences of a decode step lie in the range of rows that the step computes.

    Attributes:
        rows: Row of each sequence.
        span: The range. Nobody reads the results of its other rows, which write to the spare slot.
        index: Place of each sequence in the range, int64 [n]; None: they are its first, in this order.
    """

    rows: tuple[int, ...]
    span: Rows
    index: Tensor | None

    @property
    def size(self) -> int:
        """Rows of the range."""
        return self.span[1] - self.span[0]

    def spread(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [n] to their places: int64 [size]."""
        if self.index is not None:
            return tokens.new_zeros(self.size).index_copy(0, self.index, tokens)
        return tokens if len(tokens) == self.size else F.pad(tokens, (0, self.size - len(tokens)))

    def gather(self, results: Tensor) -> Tensor:
        """The sequences' results, [n, ...] of [size, ...]."""
        return results[: len(self.rows)] if self.index is None else results.index_select(0, self.index)


def sizes(most: int) -> list[int]:
    """The powers of two below ``most``, and ``most``."""
    return [*(1 << power for power in range((most - 1).bit_length())), most]


def placement(rows: tuple[int, ...], sequences: int, device: str, *, padded: bool) -> Placement:
    """How to decode ``rows`` of an engine for ``sequences``.

    One sequence is computed alone, because it has packages of its own. Several are computed together with the rows
    before and between them.

    Args:
        rows: Row of each sequence.
        sequences: Rows of the caches.
        device: Where the tokens are.
        padded: Round the range up to a power of two, so that there are few different ones.
    """
    if len(rows) == 1:
        return Placement(rows, (rows[0], rows[0] + 1), None)
    last = max(rows) + 1
    if padded:
        last = next(size for size in sizes(sequences) if size >= last)
    first_ones = rows == tuple(range(len(rows)))
    return Placement(rows, (0, last), None if first_ones else on_device(rows, device))
