"""Visual engines of the torch backend: compiled packages with external weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

from mmbuild.backends.torch import aot_package, weights
from mmbuild.backends.torch.export import compile_package
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
    """Export ``module`` (pixels [B, 3, H, W] -> features), compile it, and save its external constants.

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
        program = torch.export.export(module, (pixels,), dynamic_shapes=({0: dim},))
    compile_package(program, out / PACKAGE, target)
    state = {**module.state_dict(), **dict(module.named_buffers())}
    loaded = torch._inductor.aoti_load_package(str(out / PACKAGE), run_single_threaded=True)
    needed = {name: state[name].cpu().contiguous() for name in loaded.get_constant_fqns()}
    save_file(needed, out / WEIGHTS)
    (out / CONFIG).write_text(json.dumps(asdict(config), indent=2, sort_keys=True), encoding="utf-8")


class VisualEngine:
    """A loaded visual engine."""

    def __init__(self, directory: Path, target: Mapping[str, Any]) -> None:
        """Load what :func:`build` wrote; check the target first (:func:`aot_package.check_target`).

        Raises:
            EngineError: A file is missing or damaged.
        """
        self.config = make_config(read_description(directory))
        self._device = str(target["device"])
        self._constants = weights.load_rank_file(directory / WEIGHTS, self._device)
        self._package = aot_package.load_package(directory / PACKAGE, self._constants, self._device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """float [images, 3, H, W], images up to max_batch_size -> [images, num_visual_features, hidden].

        Raises:
            EngineError: Too many images, or wrong image size.
        """
        check_pixels(pixels, self.config)
        with torch.inference_mode():
            features: Tensor = self._package(pixels.to(self._device, DTYPES[self.config.dtype]))
        return features
