"""Writes a calibrated checkpoint from the model's files and the fitted parameters, one layer in memory at a time.

A weight is quantized as a whole and then split over ranks, so splitting does not change the values. Groups of
int4_awq never cross a split; validation ensures that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmbuild.backends.torch.calibration import apply_scales
from mmbuild.backends.torch.calibration.apply_scales import Quantized
from mmbuild.backends.torch.calibration.fit_scales import LayerFit
from mmbuild.base.progress import Progress, silent
from mmbuild.models.checkpoint import tensor_parallel, weight_only, writer
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS, StoredTensor, norm_tensors, stored_tensors
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.checkpoint.convert import Sources, find_sources, rank_blocks
from mmbuild.models.checkpoint.hf_weights import open_weights
from mmbuild.models.checkpoint.layer_progress import layer_counter
from mmbuild.models.checkpoint.reader import rank_file
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice, check_ranks
from mmbuild.models.checkpoint.tensor_table import TensorSpec, tensors

_INPUTS_SPLIT = (tensor_parallel.head_columns, tensor_parallel.mlp_columns)


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything needed to write the checkpoint.

    Attributes:
        config: Config of the checkpoint.
        algorithm: Name of the algorithm in recipes.
        fits: Fitted parameters by weight of the checkpoint.
        sources: The model's tensors.
    """

    config: CheckpointConfig
    algorithm: str
    fits: Mapping[str, LayerFit]
    sources: Sources


def write(
    model: Path,
    out: Path,
    family: str,
    config: CheckpointConfig,
    observed: Mapping[str, LayerFit],
    progress: Progress = silent,
) -> None:
    """Write ``config.json`` and ``rank<R>.safetensors``.

    Args:
        model: Directory in Hugging Face layout.
        out: An existing directory.
        family: Family that defines the weights' names.
        config: Config of the checkpoint, with a calibrated ``quant_algo``.
        observed: Fitted parameters by the decoder's names of its linear layers (``layers.0.mlp.up_proj``).
        progress: Called with each tensor and the number of layers that are done.

    Raises:
        CheckpointError: As :func:`mmbuild.models.checkpoint.convert.convert`.
        CalibrationError: MM461, a layer's scales are zero or not finite.
    """
    check_ranks(config.llm, config.tensor_parallel)
    specs = {spec.name: spec for spec in tensors(config.llm)}
    algorithm = next(name for name, how in ALGORITHMS.items() if how.quant_algo == config.quant_algo)
    quantized = [spec for spec in specs.values() if spec.quantizable]
    foldable = config.llm.layernorm_position == "pre_layernorm"
    fits = apply_scales.merged(quantized, observed, algorithm, foldable=foldable)
    with open_weights(model) as stored, ExitStack() as files:
        sources = find_sources(family, {".": specs}, stored, tied=config.llm.tie_word_embeddings)
        job = _Job(config, algorithm, fits, sources)
        ranks = []
        for rank in range(config.tensor_parallel):
            entries = writer.layout(_entries(job, specs, rank))
            opened = files.enter_context(writer.create(out / rank_file(rank), entries))
            ranks.append((opened, {entry.name: entry for entry in entries}))
        written_layers = layer_counter(specs)
        for spec in specs.values():
            whole = _quantize(job, spec) if spec.quantizable else None
            for rank, (file, named) in enumerate(ranks):
                for name, parts in _of_rank(job, spec, whole, rank):
                    written = 0
                    for part in parts:
                        written += file.put(name, part, written)
                    writer.check_filled(named[name], written)
            progress(spec.name, written_layers(spec.name))
    (out / "config.json").write_text(json.dumps(to_json(config), indent=2, sort_keys=True) + "\n")


def _entries(job: _Job, specs: Mapping[str, TensorSpec], rank: int) -> Iterator[writer.TensorEntry]:
    config = job.config
    for spec in specs.values():
        shape = spec.shape(config.llm, rank, config.tensor_parallel)
        if not spec.quantizable:
            yield writer.TensorEntry(spec.name, config.dtype, shape)
            for constant in norm_tensors(ALGORITHMS[job.algorithm], spec.name):
                yield writer.TensorEntry(_below(spec, constant.suffix), constant.dtype, constant.shape)
            continue
        layer, (outputs, inputs) = spec.name.removesuffix(".weight"), shape
        for suffix, (dtype, stored) in stored_tensors(
            ALGORITHMS[job.algorithm],
            layer,
            outputs,
            inputs,
            dtype=config.dtype,
            group_size=config.group_size,
            inputs_split=_inputs_split(spec),
        ).items():
            yield writer.TensorEntry(f"{layer}.{suffix}", dtype, stored)


def _below(spec: TensorSpec, suffix: str) -> str:
    return f"{spec.name.removesuffix('.weight')}.{suffix}"


def _inputs_split(spec: TensorSpec) -> bool:
    return spec.parts[0].rule in _INPUTS_SPLIT


def _quantize(job: _Job, spec: TensorSpec) -> Quantized:
    weights = [job.sources[part.source][1].read(TensorSlice()) for part in spec.parts]
    layer, fit, config = spec.name.removesuffix(".weight"), job.fits[spec.name], job.config
    if job.algorithm == "smoothquant":
        return apply_scales.smoothquant(layer, weights, fit)
    if job.algorithm == "fp8":
        return apply_scales.fp8(layer, weights, fit)
    assert config.group_size is not None
    return apply_scales.awq(layer, weights, fit, config.group_size, getattr(torch, config.dtype))


def _of_rank(
    job: _Job, spec: TensorSpec, whole: Quantized | None, rank: int
) -> Iterator[tuple[str, Iterator[Tensor]]]:
    """Names and parts of the tensors that a rank stores for ``spec``."""
    if whole is None:
        blocks = (block for part in spec.parts for block in rank_blocks(part, rank, job.sources, job.config))
        yield spec.name, _with_smoothing(job, spec.name, blocks)
        for constant in norm_tensors(ALGORITHMS[job.algorithm], spec.name):
            filled = torch.full(constant.shape, constant.value, dtype=getattr(torch, constant.dtype))
            yield _below(spec, constant.suffix), iter([filled])
        return
    layer = spec.name.removesuffix(".weight")
    for stored in ALGORITHMS[job.algorithm].tensors:
        if _inputs_split(spec) or not stored.only_where_inputs_split:
            yield f"{layer}.{stored.suffix}", iter([_cut_for(job, spec, whole, stored, rank)])


def _cut_for(job: _Job, spec: TensorSpec, whole: Quantized, stored: StoredTensor, rank: int) -> Tensor:
    """One stored tensor of one rank: rows and columns of each part, concatenated."""
    config = job.config
    tensor = whole.values if stored.suffix == "weight" else whole.tensors[stored.suffix]
    if not {"out", "out/2"} & set(stored.axes):
        cut = spec.parts[0].rule(config.llm, rank, config.tensor_parallel)
        return _sliced(tensor, stored.axes, cut, 0, config.group_size)
    parts, start = [], 0
    for part in spec.parts:
        cut = part.rule(config.llm, rank, config.tensor_parallel)
        parts.append(_sliced(tensor, stored.axes, cut, start, config.group_size, part.shape[0]))
        start += part.shape[0]
    axis = next(number for number, name in enumerate(stored.axes) if name.startswith("out"))
    joined = torch.cat(parts, dim=axis)
    return weight_only.pack(joined) if "out/2" in stored.axes else joined


def _sliced(
    tensor: Tensor, axes: tuple[str, ...], cut: TensorSlice, start: int, group: int | None, outputs: int = 0
) -> Tensor:
    """Select the rows (after ``start``, of ``outputs``) and columns of ``cut`` on the axes that have them."""
    for number, axis in enumerate(axes):
        if axis.startswith("out"):
            first, last = cut.rows or (0, outputs)
            tensor = tensor.narrow(number, start + first, last - first)
        elif cut.columns and axis.startswith("in"):
            width = group or 1 if axis == "in/group" else 1
            first, last = (edge // width for edge in cut.columns)
            tensor = tensor.narrow(number, first, last - first)
    return tensor


def _with_smoothing(job: _Job, name: str, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Multiply a norm's weight and bias by the scale of the layers after it; leave other tensors unchanged."""
    norm = name.rpartition(".")[0]
    fed = [weight for weight in job.fits if apply_scales.norm_before(weight) == norm]
    prescale = job.fits[fed[0]].prescale if fed and job.algorithm == "smoothquant" else None
    if prescale is None:
        yield from blocks
        return
    whole = torch.cat(list(blocks))
    yield (whole.float() * prescale).to(whole.dtype)
