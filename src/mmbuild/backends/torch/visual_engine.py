"""Visual engines of the torch backend: compiled packages, whose weights are inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmbuild.backends.torch import aot_package, weights
from mmbuild.backends.torch.export import WithWeights, compile_package, export
from mmbuild.backends.torch.package_shapes import check_sizes
from mmbuild.backends.visual.config import (
    CONFIG,
    VisualConfig,
    check_features,
    check_pixels,
    make_config,
    read_description,
)
from mmbuild.models.dtypes import DTYPES

PACKAGE, WEIGHTS = "visual.pt2", "visual.safetensors"


def build(module: nn.Module, config: VisualConfig, out: Path, target: Mapping[str, Any]) -> None:
    """Export ``module`` (pixels [B, 3, H, W] -> features), compile it, and save the weights that it reads.

    Raises:
        EngineError: MM533, the number of features differs from ``config``.
    """
    device = str(target["device"])
    module = module.requires_grad_(False).eval().to(device=device, dtype=DTYPES[config.dtype])
    batch = min(2, config.max_batch_size)
    pixels = torch.zeros(batch, 3, *config.image_size, device=device, dtype=DTYPES[config.dtype])
    dim = Dim("batch", min=1, max=config.max_batch_size) if config.max_batch_size > 1 else Dim.STATIC
    with torch.no_grad():
        check_features(module(pixels).shape[1], config)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    program = _export(module, pixels, dim, tensors)
    read = {name: tensors[name] for name in _read(program, sorted(tensors))}
    if len(read) < len(tensors):
        program = _export(module, pixels, dim, read)
    compile_package(program, out / PACKAGE, target)
    save_file({name: value.detach().cpu().contiguous() for name, value in read.items()}, out / WEIGHTS)
    (out / CONFIG).write_text(json.dumps(asdict(config), indent=2, sort_keys=True), encoding="utf-8")


def _export(module: nn.Module, pixels: Tensor, batch: Any, tensors: Mapping[str, Tensor]) -> ExportedProgram:
    """The graph of ``module``, with ``tensors`` as inputs in the order of their names."""
    names = sorted(tensors)
    inputs = (pixels, *(tensors[name] for name in names))
    return export(
        WithWeights(module, "forward", names), inputs, ({0: batch}, *[None] * len(names)), pixels.device.type
    )


def _read(program: ExportedProgram, names: Sequence[str]) -> list[str]:
    """The weights, of ``names`` in their order after the pixels, that a graph reads."""
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    return [name for name, node in zip(names, inputs[-len(names) :], strict=True) if node.users]


class VisualEngine:
    """A loaded visual engine."""

    def __init__(self, directory: Path, target: Mapping[str, Any]) -> None:
        """Load what :func:`build` wrote; check the target first (:func:`aot_package.check_target`).

        Raises:
            EngineError: A file is missing or damaged.
        """
        self.config = make_config(read_description(directory))
        self._device = str(target["device"])
        tensors = weights.load_rank_file(directory / WEIGHTS, self._device)
        self._weights = [tensors[name] for name in sorted(tensors)]
        images = (self.config.max_batch_size, 3, *self.config.image_size)
        shapes = [("pixels", images), *((name, tuple(tensors[name].shape)) for name in sorted(tensors))]
        check_sizes(directory / PACKAGE, shapes)
        self._package = aot_package.load_package(directory / PACKAGE, self._device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """float [images, 3, H, W], images up to max_batch_size -> [images, num_visual_features, hidden].

        Raises:
            EngineError: Too many images, or wrong image size.
        """
        check_pixels(pixels, self.config)
        with torch.inference_mode():
            (features,) = self._package([pixels.to(self._device, DTYPES[self.config.dtype]), *self._weights])
        return features
