"""Runs decode steps as CUDA graphs.

A graph has fixed shapes, but the live part of the cache grows. So there is one graph per batch size and multiple of
``BUCKET`` slots, captured on first use; a step reads at most ``BUCKET - 1`` dead slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.torch.aot_package import Package

BUCKET = 128
_WARM_UP_RUNS = 2


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    logits: Tensor


class DecodeGraphs:
    """Calls decode packages through graphs for the batch size and the live part of the caches."""

    def __init__(self) -> None:
        self._captured: dict[tuple[int, ...], _Captured] = {}

    def __call__(
        self, decode: Package, inputs: tuple[Tensor, ...], views: tuple[Tensor, ...], order: tuple[int, ...]
    ) -> Tensor:
        """Run ``decode`` on ``inputs`` (each [B]) and ``views`` of the slots, cut to buckets -> float32 [B, vocab].

        Args:
            decode: The package.
            inputs: Tensors whose values change from step to step.
            views: Slots to read; always the same memory for the same length.
            order: Order of inputs and views in the package's arguments.
        """
        key = (inputs[0].shape[0], *(view.shape[0] for view in views))
        if key not in self._captured:
            self._captured[key] = self._capture(decode, inputs, views, order)
        captured = self._captured[key]
        for own, value in zip(captured.inputs, inputs, strict=True):
            own.copy_(value)
        captured.graph.replay()
        return captured.logits

    def _capture(
        self, decode: Package, inputs: tuple[Tensor, ...], views: tuple[Tensor, ...], order: tuple[int, ...]
    ) -> _Captured:
        # The warm-up runs execute this step, so they write the same values to the same cache slots.
        inputs = tuple(value.clone() for value in inputs)
        given = (*inputs, *views)
        arguments = [given[place] for place in order]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                decode(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = decode(*arguments)
        return _Captured(graph, inputs, logits)


def bucket(length: int, limit: int) -> int:
    """``length`` rounded up to a multiple of :data:`BUCKET`, but at most ``limit``."""
    return min(-(-length // BUCKET) * BUCKET, limit)
