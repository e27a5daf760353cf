"""Batches through CUDA graphs, with a stand-in for what captures them: there is no GPU here."""

import pytest
import torch

from mmbuild.backends.torch import cuda_graphs


class Graph:
    """What was captured: replaying it computes again from the same input."""

    def __init__(self, run) -> None:
        self.run, self.result = run, run()

    def replay(self) -> None:
        self.result.copy_(self.run())


@pytest.fixture
def captures(monkeypatch):
    """Shapes in the order in which they are captured."""
    seen = []

    def capture(run, memory):
        assert memory == (0, 1)
        graph = Graph(run)
        seen.append(tuple(graph.result.shape))
        return graph, graph.result

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(cuda_graphs, "_capture", capture)
    return seen


def test_each_shape_is_captured_once_and_results_are_kept_apart(captures):
    double = cuda_graphs.BatchGraphs(lambda x: 2 * x)
    inputs = [torch.randn(count, 3) for count in (1, 2, 1, 1)]
    results = [double(x) for x in inputs]
    assert captures == [(1, 3), (2, 3)]
    assert all(torch.equal(result, 2 * x) for result, x in zip(results, inputs, strict=True))


def test_what_cannot_be_captured_runs_as_it_is(captures, monkeypatch):
    attempts = []

    def fails(_, memory):
        attempts.append(memory)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "_capture", fails)
    double = cuda_graphs.BatchGraphs(lambda x: 2 * x)
    for _ in range(2):
        x = torch.randn(2, 3)
        assert torch.equal(double(x), 2 * x)
    assert len(attempts) == 1
    assert captures == []
