"""Bookkeeping of KV caches: which row holds how many tokens, and what an earlier sequence left there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.torch.build_module import is_cache, is_cross_cache
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.host_copy import on_device
from mmbuild.backends.torch.row_spans import Rows


@dataclass(frozen=True, slots=True)
class _Positions:
    """The positions of the next step of some rows, if they are decoded again.

    Attributes:
        span: Range of rows.
        rows: Those of them that hold sequences.
        lengths: Tokens of each.
        step: 1 for the rows with sequences, else 0; int64 [n].
        following: The positions, int64 [n].
    """

    span: Rows
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    step: Tensor
    following: Tensor


class RowCaches:
    """The caches of all layers, [sequences, kv_heads, slots, head_size] each, by row.

    Attributes:
        lengths: Tokens in the self-attention caches of each row.
        encoded: Tokens in the cross-attention caches of each row.
        started: Whether each row holds a sequence.
    """

    def __init__(self, config: EngineConfig, buffers: Mapping[str, Tensor]) -> None:
        self._config = config
        self._own = [value for name, value in buffers.items() if is_cache(name) and not is_cross_cache(name)]
        self._cross = [value for name, value in buffers.items() if is_cross_cache(name)]
        self._device = self._own[0].device
        self.lengths = [0] * config.sequences
        self.encoded = [0] * config.sequences
        self.started = [False] * config.sequences
        # Slots that may hold values: those behind are zero.
        self._written = [0] * config.sequences
        self._written_cross = [0] * config.sequences
        self._last: _Positions | None = None

    def start(
        self, rows: Sequence[int], lengths: Sequence[int], filled: int, encoded: Sequence[int] | None = None
    ) -> None:
        """Start sequences whose first ``filled`` slots are about to be written, and clear the others.

        Args:
            rows: Row of each sequence.
            lengths: Tokens of each sequence.
            filled: Slots that will be written in each row, padding included.
            encoded: Tokens that each sequence attends to, the longest of which is written in each row.
        """
        _clear(self._own, rows, filled, max(self._written[row] for row in rows))
        if encoded is not None:
            _clear(self._cross, rows, max(encoded), max(self._written_cross[row] for row in rows))
        for place, row in enumerate(rows):
            self.lengths[row], self._written[row], self.started[row] = lengths[place], filled, True
            if encoded is not None:
                self.encoded[row], self._written_cross[row] = encoded[place], max(encoded)

    def advance(self, rows: Iterable[int], counts: Iterable[int]) -> None:
        """Add tokens to rows."""
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count
            self._written[row] = max(self._written[row], self.lengths[row])

    def forget(self) -> None:
        """End all sequences."""
        self.lengths = [0] * len(self.lengths)
        self.encoded = [0] * len(self.encoded)
        self.started = [False] * len(self.started)
        self._last = None

    def select(self, sources: Sequence[int]) -> None:
        """Copy rows ``sources`` to rows 0 to n - 1."""
        index = torch.tensor(sources, device=self._device)
        for caches, live, written in (
            (self._own, max(self.lengths[row] for row in sources), self._written),
            (self._cross, max(self.encoded[row] for row in sources), self._written_cross),
        ):
            for cache in caches:
                cache[: len(sources), :, :live] = cache[:, :, :live].index_select(0, index)
            for row in range(len(sources)):
                _clear(caches, [row], live, written[row])
                written[row] = live
        self.lengths[: len(sources)] = [self.lengths[row] for row in sources]
        self.encoded[: len(sources)] = [self.encoded[row] for row in sources]
        self.started[: len(sources)] = [True] * len(sources)
        self._last = None

    def positions(self, span: Rows, rows: tuple[int, ...]) -> Tensor:
        """Positions of the next token in a range of rows, int64 [n]; the spare slot in those not in ``rows``."""
        lengths = tuple(self.lengths[row] for row in rows)
        last = self._last
        if last is not None and (last.span, last.rows, last.lengths) == (span, rows, lengths):
            # Without a copy from the host, which would wait for the device.
            positions = last.following
        else:
            spare = self._config.max_seq_len
            live = dict(zip(rows, lengths, strict=True))
            places = [live.get(row, spare) for row in range(*span)]
            positions, step = on_device(
                [places, [int(row in live) for row in range(*span)]], self._device.type
            )
            last = _Positions(span, rows, lengths, step, positions)
        following = tuple(length + 1 for length in lengths)
        self._last = _Positions(span, rows, following, last.step, positions + last.step)
        return positions

    def encoded_tensor(self, span: Rows) -> Tensor:
        """Encoded tokens of a range of rows, int64 [n]."""
        return torch.tensor(self.encoded[slice(*span)], device=self._device)


def _clear(caches: Sequence[Tensor], rows: Sequence[int], first: int, last: int) -> None:
    """Zero slots ``first`` to ``last`` of rows."""
    if first < last and caches:
        index = on_device(rows, caches[0].device.type)
        for cache in caches:
            cache[:, :, first:last].index_fill_(0, index, 0)
