"""Filling a visual module from a Hugging Face model directory, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmbuild.engine.config import EngineError


def canonical(name: str) -> str:
    """A tensor's name without what changed between releases of transformers.

    Hubs hold ``vision_tower.vision_model.encoder...`` and ``model.vision_tower.vision_model.encoder...``;
    transformers 5 dropped the ``vision_model`` level from its modules.
    """
    return name.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")


def model_tensors(directory: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a model whose canonical name starts with one of ``prefixes``, lazily.

    Reads ``*.safetensors``, or the older ``pytorch_model*.bin`` as plain tensors (``weights_only``).
    """
    for path in _weight_files(directory):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    if canonical(name).startswith(prefixes):
                        yield canonical(name), file.get_tensor(name)
        else:
            for name, tensor in torch.load(path, weights_only=True, mmap=True, map_location="cpu").items():
                if canonical(name).startswith(prefixes):
                    yield canonical(name), tensor


def _weight_files(directory: Path) -> list[Path]:
    for index, single in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        if (directory / index).is_file():
            shards = json.loads((directory / index).read_text(encoding="utf-8"))["weight_map"].values()
            return [directory / shard for shard in sorted(set(shards))]
        if (directory / single).is_file():
            return [directory / single]
    raise EngineError(
        "the model directory has neither model.safetensors nor pytorch_model.bin",
        code="MM530",
        hint="Check model.source",
    )


def fill(module: nn.Module, directory: Path, prefixes: tuple[str, ...]) -> None:
    """Copy the model's tensors into ``module``'s parameters, converting the dtype.

    Raises:
        EngineError: A parameter has no tensor, or one of another shape.
    """
    wanted = {canonical(name): parameter for name, parameter in module.named_parameters()}
    for name, tensor in model_tensors(directory, prefixes):
        parameter = wanted.pop(name, None)
        if parameter is None:
            continue  # layers behind the chosen one, position ids
        if parameter.shape != tensor.shape:
            raise EngineError(
                f"tensor `{name}` has shape {list(tensor.shape)}, and config.json makes it {list(parameter.shape)}",
                code="MM531",
                hint="config.json and weights are of different models",
            )
        with torch.no_grad():
            parameter.copy_(tensor)
    if wanted:
        first = sorted(wanted)[0]
        raise EngineError(
            f"the model has no tensor `{first}`"
            + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else ""),
            code="MM532",
            hint="The visual tower or projector is missing from the weights",
        )
