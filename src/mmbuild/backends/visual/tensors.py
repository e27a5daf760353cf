"""Loads the weights of a visual module from a Hugging Face model directory, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mmbuild.models.checkpoint.hf_weights import StoredTensor, open_weights, require_floats
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
from mmbuild.models.errors import EngineError

Canonical = Callable[[str, str], str | None]


def fill(module: nn.Module, sources: Mapping[str, Path], canonical: Canonical) -> None:
    """Copy the model's tensors into ``module``'s parameters and buffers, converting the dtype.

    Args:
        module: The module to fill.
        sources: Model directories, ``{"model": ...}`` and optionally ``"vision"``.
        canonical: ``canonical(source, name)`` maps a tensor name of a source (or of the module, with source
            ``module``) to a common name; None if it is not part of the visual side.

    Raises:
        EngineError: MM532, a parameter has no tensor; MM531, the shapes differ.
        CheckpointError: The weights are missing or damaged.
    """
    required = {canonical("module", name): parameter for name, parameter in module.named_parameters()}
    for source, directory in sources.items():
        with open_weights(directory) as stored:
            for name, tensor in stored.items():
                known = canonical(source, name)
                parameter = required.pop(known, None) if known is not None else None
                if parameter is not None:  # None: the LLM, layers after the selected one, position ids
                    require_floats(name, tensor)
                    _copy(str(known), tensor, parameter)
    if required:
        first = sorted(map(str, required))[0]
        raise EngineError(
            f"the model has no tensor `{first}`"
            + (f" and {len(required) - 1} more" if len(required) > 1 else ""),
            code="MM532",
            hint="the visual tower or projector is missing from the weights",
        )


def _copy(name: str, stored: StoredTensor, parameter: Tensor) -> None:
    if tuple(parameter.shape) != stored.shape:
        raise EngineError(
            f"tensor `{name}` has shape {list(stored.shape)}, but config.json implies {list(parameter.shape)}",
            code="MM531",
            hint="config.json and weights are of different models",
        )
    with torch.no_grad():
        parameter.copy_(stored.read(TensorSlice()))
