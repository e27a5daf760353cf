"""Filling a visual module from a Hugging Face model directory, one tensor at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mmbuild.checkpoint.split import Cut
from mmbuild.checkpoint.weights import StoredTensor, open_weights
from mmbuild.engine.config import EngineError


def canonical(name: str) -> str:
    """A tensor's name without what changed between releases of transformers.

    Hubs hold ``vision_tower.vision_model.encoder...`` and ``model.vision_tower.vision_model.encoder...``;
    transformers 5 dropped the ``vision_model`` level from its modules.
    """
    return name.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")


def fill(module: nn.Module, directory: Path, prefixes: tuple[str, ...]) -> None:
    """Copy the model's tensors into ``module``'s parameters, converting the dtype.

    Raises:
        EngineError: A parameter has no tensor, or one of another shape.
        CheckpointError: The weights are missing or damaged.
    """
    wanted = {canonical(name): parameter for name, parameter in module.named_parameters()}
    with open_weights(directory) as stored:
        for name, tensor in stored.items():
            parameter = wanted.pop(canonical(name), None) if canonical(name).startswith(prefixes) else None
            if parameter is not None:  # None: of the LLM, behind the chosen layer, position ids
                _copy(canonical(name), tensor, parameter)
    if wanted:
        first = sorted(wanted)[0]
        raise EngineError(
            f"the model has no tensor `{first}`"
            + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else ""),
            code="MM532",
            hint="The visual tower or projector is missing from the weights",
        )


def _copy(name: str, stored: StoredTensor, parameter: Tensor) -> None:
    if tuple(parameter.shape) != stored.shape:
        raise EngineError(
            f"tensor `{name}` has shape {list(stored.shape)}, and config.json makes it {list(parameter.shape)}",
            code="MM531",
            hint="config.json and weights are of different models",
        )
    with torch.no_grad():
        parameter.copy_(stored.read(Cut()))
