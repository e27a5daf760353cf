"""From an unquantized checkpoint to a weight-only one, rank file by rank file, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.checkpoint import writer
from mmbuild.checkpoint.config import CheckpointConfig, to_json
from mmbuild.checkpoint.errors import CheckpointError
from mmbuild.checkpoint.progress import Progress, silent
from mmbuild.checkpoint.reader import load_config, open_tensors, rank_file
from mmbuild.checkpoint.tensors import llama_tensors
from mmbuild.checkpoint.weight_only import ALGORITHMS, WeightOnly, quantize, quantized_shape

if TYPE_CHECKING:
    from torch import Tensor


def quantize_checkpoint(
    checkpoint: Path, out: Path, algorithm: str, progress: Progress = silent
) -> CheckpointConfig:
    """Write the quantized ``config.json`` and rank files into ``out``.

    Args:
        checkpoint: An unquantized checkpoint of ours.
        out: An existing directory.
        algorithm: ``int8`` or ``int4``.
        progress: Told the file and the share done.

    Raises:
        CheckpointError: The checkpoint is unreadable, quantized already, or does not pack.
    """
    how = ALGORITHMS[algorithm]
    config = load_config(checkpoint)
    if config.quant_algo is not None:
        raise CheckpointError(
            f"`{checkpoint}` is quantized already ({config.quant_algo})",
            code="MM438",
            hint="Quantize the unquantized checkpoint",
        )
    for rank in range(config.tensor_parallel):
        _write_rank(checkpoint, out, rank, how=how, config=config, progress=progress)
    made = replace(config, quant_algo=how.quant_algo)
    (out / "config.json").write_text(json.dumps(to_json(made), indent=2, sort_keys=True) + "\n")
    return made


def scale_name(weight: str) -> str:
    """Name of the scales of a quantized weight."""
    return weight.removesuffix("weight") + "per_channel_scale"


def _write_rank(
    checkpoint: Path, out: Path, rank: int, *, how: WeightOnly, config: CheckpointConfig, progress: Progress
) -> None:
    quantizable = {spec.name for spec in llama_tensors(config.llm) if spec.quantizable}
    ranks = config.tensor_parallel
    tensors = open_tensors(checkpoint, rank)
    entries = writer.layout(_entries(tensors, quantizable, how, config.dtype))
    total = sum(entry.size for entry in entries)

    def stream() -> Iterator[tuple[str, list[Tensor]]]:
        done = 0
        scales: dict[str, Tensor] = {}
        for entry in entries:
            progress(f"{rank_file(rank)}: {entry.name}", (rank + done / total) / ranks)
            yield entry.name, [_value(entry.name, tensors, quantizable, how, scales)]
            done += entry.size

    writer.write(out / rank_file(rank), entries, stream())
    progress(rank_file(rank), (rank + 1) / ranks)


def _entries(
    tensors: Mapping[str, Any], quantizable: set[str], how: WeightOnly, dtype: str
) -> Iterator[writer.Entry]:
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name in quantizable:
            yield writer.Entry(name, "int8", quantized_shape(shape, how, name))
            yield writer.Entry(scale_name(name), dtype, shape[:1])
        else:
            yield writer.Entry(name, dtype, shape)


def _value(
    name: str,
    tensors: Mapping[str, Tensor],
    quantizable: set[str],
    how: WeightOnly,
    scales: dict[str, Tensor],
) -> Tensor:
    """The tensor to write; ``scales`` keeps those whose weight was just made, which the layout may part."""
    if name in scales:
        return scales.pop(name)
    if name in tensors and name not in quantizable:
        return tensors[name]
    if name in quantizable:
        values, scales[scale_name(name)] = quantize(tensors[name], how)
        return values
    # The layout put the scales before their weight: made for the scales alone, once more later.
    return quantize(tensors[name.removesuffix("per_channel_scale") + "weight"], how)[1]
