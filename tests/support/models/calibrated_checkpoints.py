"""Calibrated checkpoints of random numbers, and the weights they encode, computed nibble by nibble."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmbuild.models.checkpoint.calibrated_layout import BY_QUANT_ALGO, norm_tensors, stored_tensors
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.checkpoint.tensor_table import HEAD
from mmbuild.models.checkpoint.tensor_table import tensors as specified

AWQ, SMOOTH, FP8 = BY_QUANT_ALGO
INPUTS_SPLIT = ("attention.dense", "mlp.proj")


def random_tensors(config: CheckpointConfig, seed: int = 0) -> dict[str, Tensor]:
    """All tensors of one rank; weights come out at about 0.2 / sqrt(in), as in a model that was just made."""
    assert config.quant_algo is not None
    random = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for spec in specified(config.llm):
        shape = spec.shape(config.llm, 0, 1)
        if not spec.quantizable:
            made[spec.name] = _plain(spec.name, shape, random)
            for constant in norm_tensors(BY_QUANT_ALGO[config.quant_algo], spec.name):
                name = f"{spec.name.removesuffix('.weight')}.{constant.suffix}"
                made[name] = torch.full(constant.shape, constant.value)
            continue
        layer = spec.name.removesuffix(".weight")
        stored = stored_tensors(
            BY_QUANT_ALGO[config.quant_algo],
            layer,
            *shape,
            dtype=config.dtype,
            group_size=config.group_size,
            inputs_split=layer.endswith(INPUTS_SPLIT),
        )
        for suffix, (dtype, size) in stored.items():
            value = _quantized(config.quant_algo, suffix, size, shape[1], random)
            made[f"{layer}.{suffix}"] = value.to(getattr(torch, dtype))
    return made


def _plain(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    if "norm" in name or "ln_f" in name:
        return torch.rand(shape, generator=random) + (0.5 if name.endswith("weight") else 0)
    return torch.randn(shape, generator=random) * 0.3


def _quantized(
    quant_algo: str, suffix: str, size: tuple[int, ...], inputs: int, random: torch.Generator
) -> Tensor:
    spread = 0.2 * inputs**-0.5
    if suffix == "weight":
        if quant_algo == FP8:
            return torch.randn(size, generator=random) * 100
        return torch.randint(-128, 128, size, generator=random)
    if suffix in ("prequant_scaling_factor", "smoother"):
        return torch.rand(size, generator=random) + 0.5
    if quant_algo == FP8:
        return torch.tensor([spread / 100 if suffix.startswith("weights") else 0.05])
    return (torch.rand(size, generator=random) + 0.5) * spread / (4 if quant_algo == AWQ else 64)


def write_checkpoint(directory: Path, config: CheckpointConfig, tensors: Mapping[str, Tensor]) -> Path:
    """A checkpoint of one rank, by safetensors' own writer."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), directory / "rank0.safetensors")
    (directory / "config.json").write_text(json.dumps(to_json(config)))
    return directory


def dequantized(layer: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The weight [out, in], float64, that a layer multiplies its inputs by, factors on the inputs included."""
    part = {
        name.removeprefix(layer + "."): t for name, t in tensors.items() if name.rpartition(".")[0] == layer
    }
    if "prequant_scaling_factor" in part:
        packed, scale = part["weight"].int(), part["weights_scaling_factor"].double()
        nibbles = torch.stack([packed & 15, (packed >> 4) & 15], dim=1).flatten(0, 1)
        values = torch.where(nibbles > 7, nibbles - 16, nibbles).double()
        wide = scale.repeat_interleave(values.shape[1] // scale.shape[1], dim=1)
        return values * wide * part["prequant_scaling_factor"].double()
    if "per_channel_scale" in part:
        smoother = part["smoother"].double() if "smoother" in part else 1
        return part["weight"].double() * part["per_channel_scale"].double().t() / smoother
    return part["weight"].double() * part["weights_scaling_factor"].double()


def in_hugging_face_names(config: CheckpointConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 weights under the names of transformers' causal models."""
    named: dict[str, Any] = {}
    for spec in specified(config.llm):
        layer = spec.name.removesuffix(".weight")
        whole = dequantized(layer, tensors) if spec.quantizable else tensors[spec.name]
        sizes = [part.shape[0] for part in spec.parts]
        for part, value in zip(spec.parts, whole.float().split(sizes), strict=True):
            named[HEAD if part.source == HEAD else f"model.{part.source}"] = value
    return named
