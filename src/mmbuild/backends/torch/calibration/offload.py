"""Offloading for models that do not fit into GPU memory: moves decoder layers to the GPU one by one.

The rest of the model (tower, projector, embeddings, norms, head) stays on the GPU. Results are the same as without
offloading, because all sums are computed on the same device; only the transfers cost time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.models.checkpoint.hf_weights import open_weights
from mmbuild.models.dtypes import DTYPES

Place = Callable[[Tensor], Tensor]
"""Moves a tensor to a device; returns the same tensor if it is already there."""
# Memory needed in addition to the weights: activations of one sample, and copies of a layer during a search.
_EXTRA = 2 << 30


def on_device(device: str) -> Place:
    """A mover to ``device``."""
    return lambda tensor: tensor.to(device)


def weights_bytes(sources: Mapping[str, Path], dtype: str) -> int:
    """Size in bytes of a model's weights in ``dtype``, over all sources, even if one is only partly used.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    total, item = 0, int(DTYPES[dtype].itemsize)
    for source in sources.values():
        with open_weights(source) as stored:
            total += sum(math.prod(tensor.shape) for tensor in stored.values())
    return total * item


def free_bytes() -> int:
    """Free memory of the current GPU."""
    free, _ = torch.cuda.mem_get_info()
    return int(free)


def needs_offload(needed: int, free: int) -> bool:
    """Whether weights of ``needed`` bytes are too large for ``free`` bytes of GPU memory."""
    return needed + _EXTRA > free


@contextmanager
def layerwise_offload(
    model: nn.Module, layers: Sequence[nn.Module], there: Place, home: Place
) -> Iterator[None]:
    """Keep ``layers`` on the host except during their own forward pass, and the rest of ``model`` on the device.

    Args:
        model: The model, on the host.
        layers: Its modules that run one after the other and share no tensors.
        there: The compute device.
        home: The host.
    """
    of_layers = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if id(module) not in of_layers:
            _put(module, there)
    handles = []
    for layer in layers:
        visit = _Visit(layer, there, home)
        handles += [
            layer.register_forward_pre_hook(visit.begin),
            layer.register_forward_hook(visit.end, always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Visit:
    """Moves a layer to the device and back. Its weights do not change, so the host copies are kept."""

    def __init__(self, layer: nn.Module, there: Place, home: Place) -> None:
        self.layer, self.there, self.home = layer, there, home
        self.weights: dict[nn.Parameter, Tensor] = {}

    def begin(self, *_: Any) -> None:
        self.weights = {parameter: parameter.data for parameter in self.layer.parameters()}
        for module in self.layer.modules():
            _put(module, self.there)

    def end(self, *_: Any) -> None:
        for parameter, weight in self.weights.items():
            parameter.data = weight
        self.weights = {}
        for module in self.layer.modules():
            _put(module, self.home)


def _put(module: nn.Module, place: Place) -> None:
    """Move a module's tensors, but not its children's: parameters, buffers, attributes, and tensors in plain objects,
    where Model Optimizer keeps its statistics."""
    for parameter in module.parameters(recurse=False):
        parameter.data = place(parameter.data)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, place(buffer))
    _put_attributes(module, place)
    for held in list(vars(module).values()):
        if hasattr(held, "__dict__") and not isinstance(held, (nn.Module, Tensor, type)):
            _put_attributes(held, place)


def _put_attributes(holder: Any, place: Place) -> None:
    for name, value in list(vars(holder).items()):
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            setattr(holder, name, place(value))
