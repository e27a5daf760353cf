"""Decode steps as CUDA graphs.

A graph has fixed shapes, the live part of the cache grows. So there is one graph for each batch size and each
multiple of ``BUCKET`` slots, captured when it is first needed: at most ``BUCKET - 1`` dead slots are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.engine.package import Package

BUCKET = 128
_WARM_UP_RUNS = 2


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    positions: Tensor
    logits: Tensor


class DecodeGraphs:
    """Calls a decode package through a graph that fits the batch and the longest sequence."""

    def __init__(self, slots: Tensor) -> None:
        """``slots``: int64 [max_seq_len] = 0.. on the device."""
        self._slots = slots
        self._captured: dict[tuple[int, int], _Captured] = {}

    def __call__(self, decode: Package, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        """tokens, positions int64 [B]; ``longest``: live slots of the longest sequence -> float32 [B, vocab]."""
        bucket = min(-(-longest // BUCKET) * BUCKET, self._slots.shape[0])
        key = (tokens.shape[0], bucket)
        if key not in self._captured:
            self._captured[key] = self._capture(decode, tokens, positions, self._slots[:bucket])
        captured = self._captured[key]
        captured.tokens.copy_(tokens)
        captured.positions.copy_(positions)
        captured.graph.replay()
        return captured.logits

    def _capture(self, decode: Package, tokens: Tensor, positions: Tensor, slots: Tensor) -> _Captured:
        # Warming up runs this very step, which writes the same cache slots with the same values.
        tokens, positions = tokens.clone(), positions.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                decode(tokens, positions, slots)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = decode(tokens, positions, slots)
        return _Captured(graph, tokens, positions, logits)
