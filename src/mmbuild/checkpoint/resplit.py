"""A calibrated checkpoint of one rank, split over several.

Scales belong to weights that ranks share out whole: rows of outputs with their scales, columns of inputs with their
groups, so that nothing is rounded again and every rank multiplies by the very numbers that calibration chose. (Plain
weight-only quantization has one scale for all inputs of an output, and chooses it on each rank anew.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.checkpoint import writer
from mmbuild.checkpoint.calibrated import BY_QUANT_ALGO, StoredTensor, groups, packed_outputs
from mmbuild.checkpoint.config import CheckpointConfig, to_json
from mmbuild.checkpoint.errors import CheckpointError
from mmbuild.checkpoint.reader import load_config, open_tensors, rank_file
from mmbuild.checkpoint.split import check_ranks
from mmbuild.checkpoint.tensors import TensorSpec
from mmbuild.checkpoint.tensors import tensors as specified

if TYPE_CHECKING:
    from torch import Tensor

Span = tuple[int, int]


def resplit(checkpoint: Path, out: Path, ranks: int) -> CheckpointConfig:
    """Write ``config.json`` and the files of ``ranks`` ranks into ``out``.

    Args:
        checkpoint: A calibrated checkpoint of one rank.
        out: An existing directory.
        ranks: How many.

    Raises:
        CheckpointError: MM433, the model cannot be split so; MM437 or MM543, pairs or groups cannot; MM438, the
            checkpoint is not calibrated or split already; MM436, it cannot be read.
    """
    config = load_config(checkpoint)
    if config.tensor_parallel != 1 or config.quant_algo not in BY_QUANT_ALGO:
        raise CheckpointError(
            f"`{checkpoint}` has {config.tensor_parallel} ranks and quantization {config.quant_algo}",
            code="MM438",
            hint="What is split is a calibrated checkpoint of one rank",
        )
    whole = open_tensors(checkpoint, 0)
    for rank in range(ranks):
        parts = dict(rank_tensors(whole, config, rank, ranks))
        entries = writer.layout(
            writer.Entry(name, str(part.dtype).removeprefix("torch."), tuple(part.shape))
            for name, part in parts.items()
        )
        writer.write(out / rank_file(rank), entries, ((e.name, (parts[e.name],)) for e in entries))
    made = replace(config, tensor_parallel=ranks)
    (out / "config.json").write_text(json.dumps(to_json(made), indent=2, sort_keys=True) + "\n")
    return made


def rank_tensors(
    whole: Mapping[str, Tensor], config: CheckpointConfig, rank: int, ranks: int
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a rank by name, in the order of the forward pass; views where they can be.

    Args:
        whole: The tensors of one rank that holds everything, calibrated.
        config: Theirs; ``tensor_parallel`` is not looked at.
        rank: Which.
        ranks: Of how many.

    Raises:
        CheckpointError: MM433, MM437 or MM543 as :func:`resplit`.
    """
    check_ranks(config.llm, ranks)
    for spec in specified(config.llm):
        if spec.quantizable:
            yield from _linear(spec, whole, config, rank, ranks)
        else:
            yield spec.name, _plain(spec, whole[spec.name], config, rank, ranks)


def inputs_split(spec: TensorSpec, config: CheckpointConfig) -> bool:
    """Whether ranks split the inputs of a linear layer (dense, proj), at any number of them."""
    return spec.parts[0].rule(config.llm, 0, 1).columns is not None


def _linear(
    spec: TensorSpec, whole: Mapping[str, Tensor], config: CheckpointConfig, rank: int, ranks: int
) -> Iterator[tuple[str, Tensor]]:
    assert config.quant_algo is not None
    layer = spec.name.removesuffix(".weight")
    outputs = _outputs(spec, config, rank, ranks)
    inputs = spec.parts[0].rule(config.llm, rank, ranks).columns or (0, spec.parts[0].shape[1])
    for stored in BY_QUANT_ALGO[config.quant_algo].tensors:
        if stored.only_where_inputs_split and not inputs_split(spec, config):
            continue
        name = f"{layer}.{stored.suffix}"
        yield name, _taken(whole[name], stored, layer, outputs, inputs, config.group_size)


def _outputs(spec: TensorSpec, config: CheckpointConfig, rank: int, ranks: int) -> list[Span]:
    """The rank's rows: a half-open range for each part (query, key, value) of the whole."""
    rows, first = [], 0
    for part in spec.parts:
        start, stop = part.rule(config.llm, rank, ranks).rows or (0, part.shape[0])
        rows.append((first + start, first + stop))
        first += part.shape[0]
    return rows


def _taken(
    tensor: Tensor,
    stored: StoredTensor,
    layer: str,
    outputs: list[Span],
    inputs: Span,
    group_size: int | None,
) -> Tensor:
    """A rank's part of one stored tensor."""
    for axis, kind in enumerate(stored.axes):
        if kind == "in":
            tensor = tensor.narrow(axis, inputs[0], inputs[1] - inputs[0])
        elif kind == "in/group":
            start, stop = (groups(layer, edge, group_size) for edge in inputs)
            tensor = tensor.narrow(axis, start, stop - start)
        elif kind == "out":
            tensor = _together(tensor, axis, outputs)
        elif kind == "out/2":
            pairs = [(packed_outputs(layer, start), packed_outputs(layer, stop)) for start, stop in outputs]
            tensor = _together(tensor, axis, pairs)
    return tensor


def _plain(spec: TensorSpec, tensor: Tensor, config: CheckpointConfig, rank: int, ranks: int) -> Tensor:
    """A rank's part of a tensor that is not quantized."""
    import torch

    if spec.shape(config.llm, rank, ranks) == tuple(tensor.shape):
        return tensor
    taken = _together(tensor, 0, _outputs(spec, config, rank, ranks))
    padding = spec.parts[-1].rule(config.llm, rank, ranks).padding
    return torch.nn.functional.pad(taken, (0, 0) * (taken.dim() - 1) + (0, padding))


def _together(tensor: Tensor, axis: int, spans: list[Span]) -> Tensor:
    """Ranges of an axis, one after the other."""
    import torch

    parts = [tensor.narrow(axis, start, stop - start) for start, stop in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
