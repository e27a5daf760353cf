"""Compiles visual modules: one package for each distinct layer, and what is around the layers.

Weights are inputs of the packages, so these depend on shapes and never on the weights' values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from mmbuild.backends.torch import visual_calls
from mmbuild.backends.torch.compile_pool import Packages, compile_all
from mmbuild.backends.torch.graph_cutting import cut
from mmbuild.backends.torch.graph_segment import export_segment
from mmbuild.backends.visual.config import CONFIG, VisualConfig, check_features
from mmbuild.base.progress import Progress, silent
from mmbuild.models.dtypes import DTYPES


def build(
    module: nn.Module,
    config: VisualConfig,
    out: Path,
    target: Mapping[str, Any],
    canonical: Callable[[str], str | None],
    *,
    cores: int = 1,
    progress: Progress = silent,
) -> None:
    """Compile ``module`` (pixels [B, 3, H, W] -> features) for batches of 1 to ``config.max_batch_size``.

    Args:
        module: The module, possibly on the meta device; its weights are not read and are lost.
        config: What to compile for.
        out: Directory for the packages, ``calls.json`` and ``visual.json``.
        target: Device and instruction set.
        canonical: Name in the engine of a parameter or buffer of the module.
        cores: Packages to compile at once.
        progress: Called with the packages that are being compiled, and how many are done.

    Raises:
        EngineError: MM533, the number of features differs from ``config``.
    """
    device = str(target["device"])
    # On the CPU, where memory that is not written costs nothing; a process that has used CUDA cannot fork.
    module = module.requires_grad_(False).eval().to(dtype=DTYPES[config.dtype]).to_empty(device="cpu")
    program = trace(module, config)
    (features,) = program.graph.output_node().args[0]
    check_features(features.meta["val"].shape[1], config)
    parts = cut(program, module, device)
    programs = {
        name: partial(export_segment, segment, device, config.max_batch_size)
        for name, segment in parts.segments.items()
    }
    compile_all(Packages(programs, out, target), cores, progress)
    visual_calls.write(out, _renamed(parts.calls, canonical))
    (out / CONFIG).write_text(json.dumps(asdict(config), indent=2, sort_keys=True), encoding="utf-8")


def trace(module: nn.Module, config: VisualConfig) -> ExportedProgram:
    """The graph of ``module``, on the CPU, without in-place operations."""
    batch = min(2, config.max_batch_size)
    pixels = torch.empty(batch, 3, *config.image_size, dtype=DTYPES[config.dtype])
    dim = Dim("batch", min=1, max=config.max_batch_size) if config.max_batch_size > 1 else Dim.STATIC
    with torch.no_grad():
        program = torch.export.export(module, (pixels,), dynamic_shapes=({0: dim},))
    # Tracing again takes as long as tracing, and what it decomposes depends on strides.
    return program.run_decompositions({}) if any(map(_writes, program.graph.nodes)) else program


def _writes(node: torch.fx.Node) -> bool:
    """Whether a node is an in-place operation."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _renamed(calls: visual_calls.Calls, canonical: Callable[[str], str | None]) -> visual_calls.Calls:
    """The calls, with the engine's names of the weights."""
    renamed = (
        replace(call, weights=tuple(canonical(name) or name for name in call.weights)) for call in calls.calls
    )
    return replace(calls, calls=tuple(renamed))
