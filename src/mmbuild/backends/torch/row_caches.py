"""Bookkeeping of KV caches: which row holds how many tokens, and what an earlier sequence left there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mmbuild.backends.torch.bound_packages import Rows
from mmbuild.backends.torch.build_module import is_cache, is_cross_cache
from mmbuild.backends.torch.config import EngineConfig


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
        self._last: tuple[Rows, tuple[int, ...], Tensor] | None = None

    def start(
        self, rows: Rows, lengths: Sequence[int], filled: int, encoded: Sequence[int] | None = None
    ) -> None:
        """Start sequences whose first ``filled`` slots are about to be written, and clear the others.

        Args:
            rows: Range of rows.
            lengths: Tokens of each sequence.
            filled: Slots that will be written in each row, padding included.
            encoded: Tokens that each sequence attends to, the longest of which is written in each row.
        """
        covered = slice(*rows)
        _clear(self._own, rows, filled, max(self._written[covered]))
        self.lengths[covered] = list(lengths)
        self._written[covered] = [filled] * len(lengths)
        if encoded is not None:
            _clear(self._cross, rows, max(encoded), max(self._written_cross[covered]))
            self.encoded[covered] = list(encoded)
            self._written_cross[covered] = [max(encoded)] * len(encoded)
        self.started[covered] = [True] * len(lengths)

    def advance(self, rows: Iterable[int], counts: Iterable[int]) -> None:
        """Add tokens to rows."""
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count
            self._written[row] = max(self._written[row], self.lengths[row])

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
                _clear(caches, (row, row + 1), live, written[row])
                written[row] = live
        self.lengths[: len(sources)] = [self.lengths[row] for row in sources]
        self.encoded[: len(sources)] = [self.encoded[row] for row in sources]
        self.started[: len(sources)] = [True] * len(sources)
        self._last = None

    def positions(self, span: Rows, rows: tuple[int, ...]) -> Tensor:
        """Positions of the next token in a range of rows, int64 [n]; the spare slot in those not in ``rows``."""
        complete = len(rows) == span[1] - span[0]
        expected = tuple(self.lengths[row] for row in rows)
        if complete and self._last is not None:
            known_span, known, tensor = self._last
            if known_span == span and known == tuple(length - 1 for length in expected):
                # Without a copy from the host, which would wait for the device.
                self._last = span, expected, tensor + 1
                return self._last[2]
        chosen = set(rows)
        values = [self.lengths[row] if row in chosen else self._config.max_seq_len for row in range(*span)]
        tensor = torch.tensor(values, device=self._device)
        self._last = (span, expected, tensor) if complete else None
        return tensor

    def encoded_tensor(self, span: Rows) -> Tensor:
        """Encoded tokens of a range of rows, int64 [n]."""
        return torch.tensor(self.encoded[slice(*span)], device=self._device)


def _clear(caches: Sequence[Tensor], rows: Rows, first: int, last: int) -> None:
    """Zero slots ``first`` to ``last`` of rows."""
    if first < last:
        for cache in caches:
            cache[rows[0] : rows[1], :, first:last] = 0
