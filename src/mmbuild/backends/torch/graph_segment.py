"""A part of a module's graph as a separate graph, which is compiled to a package; weights are inputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram
from torch.fx.node import map_arg

_TRACED_IMAGES = 2
"""Images in the inputs that a segment is traced with; a size of 1 would be taken for a constant."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a segment.

    Attributes:
        dtype: Its dtype.
        shape: Its shape for a batch of one.
        batched: Dimensions that are multiples of the batch.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    batched: frozenset[int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A graph that is compiled to one package.

    Attributes:
        graph: Takes activations, then weights; returns a tuple of contiguous tensors.
        inputs: What it takes.
    """

    graph: fx.GraphModule
    inputs: tuple[Input, ...]


def export_segment(segment: Segment, device: str, max_batch: int) -> ExportedProgram:
    """Trace a segment for batches of 1 to ``max_batch``."""
    batch = Dim("batch", min=1, max=max_batch) if max_batch > 1 else None
    images = min(_TRACED_IMAGES, max_batch)
    inputs = tuple(
        torch.empty(_scaled(value, images), dtype=value.dtype, device=device) for value in segment.inputs
    )
    dims = tuple(
        {dim: value.shape[dim] * batch if value.shape[dim] > 1 else batch for dim in value.batched}
        if batch is not None
        else None
        for value in segment.inputs
    )
    with torch.no_grad():
        return torch.export.export(segment.graph, inputs, dynamic_shapes=dims)


def _scaled(value: Input, images: int) -> tuple[int, ...]:
    return tuple(size * images if dim in value.batched else size for dim, size in enumerate(value.shape))


def read_input(value: Tensor) -> Input:
    """An input, from the tensor in its place when the graph was traced.

    Raises:
        ValueError: A dynamic size is not a multiple of the batch.
    """
    batched = {dim: size.node.expr for dim, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}
    shape = list(value.shape)
    for dim, size in batched.items():
        (batch,) = size.free_symbols
        shape[dim] = size.subs(batch, 1)
        if size != shape[dim] * batch:
            raise ValueError(f"layers exchange a tensor with a size of {size}, not a multiple of the batch")
    return Input(value.dtype, tuple(map(int, shape)), frozenset(batched))


def fingerprint(segment: Segment) -> str:
    """Equal for segments whose graphs differ only in the names of their nodes."""
    numbers = {node: f"%{number}" for number, node in enumerate(segment.graph.graph.nodes)}
    lines = [repr(segment.inputs)]
    for node in segment.graph.graph.nodes:
        target = "" if node.op in ("placeholder", "output") else str(node.target)
        lines.append(f"{node.op} {target} {map_arg((node.args, node.kwargs), numbers.__getitem__)}")
    digest = hashlib.sha256("\n".join(lines).encode())
    for name, value in sorted(segment.graph.named_buffers()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} {value.tolist()}".encode())
    return digest.hexdigest()
