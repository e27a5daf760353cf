"""Runs decode steps and visual towers as CUDA graphs, where launching their kernels takes longer than running them.

A graph has fixed shapes, but the number of sequences varies, and the live part of the cache grows. So there is one
graph per range of rows and, where attention is not a kernel that finds the live slots by itself, per multiple of
``BUCKET`` slots; a step then reads at most ``BUCKET - 1`` dead slots. Graphs are captured on first use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.torch.graph_overlap import overlap_kernels

_log = logging.getLogger(__name__)

BUCKET = 128
_WARM_UP_RUNS = 2


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    result: Tensor


Step = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], Tensor]
"""A decode step: inputs that change from step to step, and views of slots -> logits."""


class DecodeGraphs:
    """Runs decode steps through graphs for the rows and the live part of the caches."""

    def __init__(self) -> None:
        self._captured: dict[tuple[int, ...], _Captured] = {}
        # Shared: no two graphs run at the same time, and each keeps its logits.
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(
        self, step: Step, inputs: tuple[Tensor, ...], views: tuple[Tensor, ...], rows: tuple[int, int]
    ) -> Tensor:
        """Run ``step`` on ``inputs`` (each [B]) and ``views`` of the slots, cut to buckets -> float32 [B, vocab].

        Args:
            step: The step.
            inputs: Tensors whose values change from step to step.
            views: Slots to read; always the same memory for the same length.
            rows: Range of cache rows that the step works on.
        """
        key = (*rows, *(view.shape[0] for view in views))
        if key not in self._captured:
            self._captured[key] = self._capture(step, inputs, views)
        captured = self._captured[key]
        for own, value in zip(captured.inputs, inputs, strict=True):
            own.copy_(value)
        captured.graph.replay()
        return captured.result

    def _capture(self, step: Step, inputs: tuple[Tensor, ...], views: tuple[Tensor, ...]) -> _Captured:
        # The warm-up runs execute this step, so they write the same values to the same cache slots.
        inputs = tuple(value.clone() for value in inputs)
        graph, logits = _capture(lambda: step(inputs, views), self._memory)
        return _Captured(graph, inputs, logits)


class BatchGraphs:
    """Runs a function of one tensor through a graph for each of its shapes, or as it is where that is impossible."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._captured: dict[tuple[int, ...], _Captured | None] = {}
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, x: Tensor) -> Tensor:
        """The function's result for ``x``."""
        shape = tuple(x.shape)
        if shape not in self._captured:
            self._captured[shape] = self._capture(x.clone())
        captured = self._captured[shape]
        if captured is None:
            return self._function(x)
        captured.inputs[0].copy_(x)
        captured.graph.replay()
        return captured.result.clone()  # graphs share their memory

    def _capture(self, own: Tensor) -> _Captured | None:
        try:
            graph, result = _capture(lambda: self._function(own), self._memory)
        except RuntimeError:  # an operator that waits for the device, or too little memory
            _log.debug("a batch of %s cannot be captured", tuple(own.shape), exc_info=True)
            return None
        return _Captured(graph, (own,), result)


def _capture(run: Callable[[], Tensor], memory: tuple[int, int]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_RUNS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph, pool=memory):
        result = run()
    overlap_kernels(graph.raw_cuda_graph())
    graph.instantiate()
    return graph, result


def bucket(length: int, limit: int) -> int:
    """``length`` rounded up to a multiple of :data:`BUCKET`, but at most ``limit``."""
    return min(-(-length // BUCKET) * BUCKET, limit)
