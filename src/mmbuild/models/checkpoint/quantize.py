"""Quantizes an unquantized checkpoint to a weight-only one, with a few tensors in memory at a time.

Scales are derived from the weights alone, or fitted to the measured inputs of each layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.progress import Progress, silent
from mmbuild.models.checkpoint import writer
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.checkpoint.hf_weights import row_blocks
from mmbuild.models.checkpoint.layer_progress import layer_counter
from mmbuild.models.checkpoint.reader import load_config, open_tensors, rank_file
from mmbuild.models.checkpoint.tensor_table import TensorSpec
from mmbuild.models.checkpoint.tensor_table import tensors as specified
from mmbuild.models.checkpoint.threads import map_ordered
from mmbuild.models.checkpoint.weight_only import ALGORITHMS, WeightOnly, quantize, quantized_shape
from mmbuild.models.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from mmbuild.models.checkpoint.weight_only_fit import Moments

# Bytes of a block for tensors that are only copied.
_BLOCK = 4 << 20
# Limit of bytes waiting to be written, over all threads.
_MEMORY = 512 << 20


@dataclass(frozen=True, slots=True)
class _Rank:
    """A rank that is being quantized.

    Attributes:
        tensors: Tensors of the input file, views of the mapped file.
        moments: Moments of the inputs of this rank's part of each quantizable weight; empty without calibration.
        entries: Tensors of the new file by name.
        file: The new file.
    """

    tensors: Mapping[str, Tensor]
    moments: Mapping[str, Moments]
    entries: Mapping[str, writer.TensorEntry]
    file: writer.OpenFile


def quantize_checkpoint(
    checkpoint: Path,
    out: Path,
    algorithm: str,
    progress: Progress = silent,
    threads: int = 1,
    moments: Mapping[str, Moments] | None = None,
) -> CheckpointConfig:
    """Write the quantized ``config.json`` and rank files to ``out``.

    Args:
        checkpoint: An unquantized checkpoint written by mmbuild.
        out: An existing directory.
        algorithm: ``int8`` or ``int4``.
        progress: Called with each tensor and the number of layers that are done, of all ranks.
        threads: Number of tensors to quantize in parallel; reduced to stay below 512 MiB.
        moments: Moments of the inputs of each quantizable weight, before splitting over ranks; None: absmax scales.

    Raises:
        CheckpointError: The checkpoint is unreadable, already quantized, or cannot be packed.
    """
    how = ALGORITHMS[algorithm]
    config = load_config(checkpoint)
    if config.quant_algo is not None:
        raise CheckpointError(
            f"`{checkpoint}` is already quantized ({config.quant_algo})",
            code="MM438",
            hint="quantize the unquantized checkpoint",
        )
    _write_ranks(checkpoint, out, how, config, progress, threads, moments or {})
    quantized = replace(config, quant_algo=how.quant_algo)
    (out / "config.json").write_text(json.dumps(to_json(quantized), indent=2, sort_keys=True) + "\n")
    return quantized


def scale_name(weight: str) -> str:
    """Name of the scales of a quantized weight."""
    return weight.removesuffix("weight") + "per_channel_scale"


def _write_ranks(
    checkpoint: Path,
    out: Path,
    how: WeightOnly,
    config: CheckpointConfig,
    progress: Progress,
    threads: int,
    moments: Mapping[str, Moments],
) -> None:
    specs = [spec for spec in specified(config.llm) if spec.quantizable]
    quantizable = {spec.name for spec in specs}
    with ExitStack() as files:
        ranks = [
            files.enter_context(
                _rank(
                    checkpoint, out, rank, quantizable, how, config.dtype, _cut(moments, specs, config, rank)
                )
            )
            for rank in range(config.tensor_parallel)
        ]
        # A layer of all ranks in succession: that is what is counted.
        names = [(name, rank) for name in ranks[0].tensors for rank in ranks]
        tasks = [
            partial(_quantized, rank, name, how) if name in quantizable else partial(_copied, rank, name)
            for name, rank in names
        ]
        largest = max(rank.entries[name].size for rank in ranks for name in quantizable)
        workers = max(1, min(threads, _MEMORY // largest))
        written = layer_counter(name for name, _ in names)
        for name in map_ordered(tasks, workers):
            progress(name, written(name))


def _cut(
    moments: Mapping[str, Moments], specs: Sequence[TensorSpec], config: CheckpointConfig, rank: int
) -> dict[str, Moments]:
    """Moments of the inputs on a rank."""
    cuts = {spec.name: spec.parts[0].rule(config.llm, rank, config.tensor_parallel) for spec in specs}
    return {name: whole.columns(cuts[name].columns) for name, whole in moments.items()}


@contextmanager
def _rank(
    checkpoint: Path,
    out: Path,
    rank: int,
    quantizable: set[str],
    how: WeightOnly,
    dtype: str,
    moments: Mapping[str, Moments],
) -> Iterator[_Rank]:
    tensors = open_tensors(checkpoint, rank)
    entries = writer.layout(_entries(tensors, quantizable, how, dtype))
    with writer.create(out / rank_file(rank), entries) as file:
        yield _Rank(tensors, moments, {entry.name: entry for entry in entries}, file)


def _entries(
    tensors: Mapping[str, Tensor], quantizable: set[str], how: WeightOnly, dtype: str
) -> Iterator[writer.TensorEntry]:
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name in quantizable:
            yield writer.TensorEntry(name, "int8", quantized_shape(shape, how, name))
            yield writer.TensorEntry(scale_name(name), dtype, shape[:1])
        else:
            yield writer.TensorEntry(name, dtype, shape)


def _quantized(rank: _Rank, name: str, how: WeightOnly) -> str:
    """Write a quantized weight and its scales; returns its name."""
    if name in rank.moments:
        from mmbuild.models.checkpoint import weight_only_fit

        values, scales = weight_only_fit.quantize(rank.tensors[name], how, rank.moments[name])
    else:
        values, scales = quantize(rank.tensors[name], how)
    for entry, tensor in ((name, values), (scale_name(name), scales)):
        writer.check_filled(rank.entries[entry], rank.file.put(entry, tensor))
    return name


def _copied(rank: _Rank, name: str) -> str:
    """Copy a tensor; returns its name."""
    written = 0
    for block in row_blocks(rank.tensors[name], _BLOCK):
        written += rank.file.put(name, block, written)
    writer.check_filled(rank.entries[name], written)
    return name
