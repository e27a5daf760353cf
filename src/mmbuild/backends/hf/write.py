"""Writes the weights of a Hugging Face directory: one decoder layer in memory at a time, other tensors in blocks.

Tensors get the names of the first checkpoints of their family (:func:`mmbuild.backends.hf.names.name_in_files`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.backends.hf.layer import How, quantize_layer, stored_shapes
from mmbuild.backends.hf.names import name_in_files
from mmbuild.backends.hf.sites import linear_names
from mmbuild.base.progress import BYTES, Amount, Progress, silent
from mmbuild.models.checkpoint import writer
from mmbuild.models.checkpoint.convert import DERIVED, find_sources, naming_of, require_finite
from mmbuild.models.checkpoint.hf_weights import StoredTensor, open_weights, require_floats, row_blocks
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
from mmbuild.models.checkpoint.tensor_table import tensors
from mmbuild.models.checkpoint.tied_embedding import with_embedding
from mmbuild.models.checkpoint.writer import TensorEntry
from mmbuild.models.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from mmbuild.backends.hf.inputs import Inputs
    from mmbuild.models.families.facts import LlmFacts

SHARD = 4 << 30
"""Largest size of a weight file, bytes, unless a single tensor is larger."""

_BLOCK = 1 << 20
_OTHERS: Mapping[str, str] = {"I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Part:
    """Tensors that are written together: a decoder layer, or one other tensor.

    Attributes:
        prefix: What the names of a layer's tensors begin with; a tensor's whole name otherwise.
        names: Names of the source tensors.
        entries: What is written.
        quantized: Whether it is a layer with quantized weights.
    """

    prefix: str
    names: tuple[str, ...]
    entries: tuple[TensorEntry, ...]
    quantized: bool = False


def write(
    model: Path,
    out: Path,
    family: str,
    llm: LlmFacts,
    dtype: str,
    how: How | None,
    inputs: Mapping[str, Inputs],
    progress: Progress = silent,
    shard: int = SHARD,
) -> None:
    """Write ``model.safetensors``, or its shards and their index.

    Args:
        model: Directory in Hugging Face layout.
        out: An existing directory.
        family: Family that defines the weights' names.
        llm: Its decoder.
        dtype: Number format of everything that is not quantized.
        how: How the decoder's layers are quantized; None: not at all.
        inputs: Statistics of the layers' inputs by the decoder's names (``layers.0.mlp.up_proj``); may be empty.
        progress: Called with each tensor and the bytes that are written.
        shard: Largest size of a file, bytes.

    Raises:
        CheckpointError: A tensor is missing, has another shape or number format, holds NaN or infinity, or belongs to
            no module.
    """
    with open_weights(model) as found, ExitStack() as files:
        stored = with_embedding(found, family, "embed_tokens.weight", tied=llm.tie_word_embeddings)
        parts = [_renamed(part, family) for part in _parts(stored, family, llm, dtype, how)]
        _require_different(parts)
        opened: dict[str, tuple[writer.OpenFile, TensorEntry]] = {}
        shards = _shards(parts, shard)
        for number, group in enumerate(shards, start=1):
            entries = writer.layout(entry for part in group for entry in part.entries)
            file = files.enter_context(writer.create(out / _file_name(number, len(shards)), entries))
            opened.update((entry.name, (file, entry)) for entry in entries)
        total, done = sum(entry.size for part in parts for entry in part.entries), 0
        for part in parts:
            for source, blocks in _tensors(part, stored, dtype, how, inputs):
                name = name_in_files(family, source)
                file, entry = opened[name]
                written = 0
                for block in blocks:
                    written += file.put(name, block, written)
                writer.check_filled(entry, written)
                done += written
                progress(name, Amount(done, total, BYTES))
    if len(shards) > 1:
        _write_index(out, shards)


def _parts(
    stored: Mapping[str, StoredTensor], family: str, llm: LlmFacts, dtype: str, how: How | None
) -> Iterator[Part]:
    """All that is written, in the order of the model's tensors with the decoder's layers at the end."""
    specs = {spec.name: spec for spec in tensors(llm)}
    sources = find_sources(family, {".": specs}, stored, tied=llm.tie_word_embeddings)
    naming = naming_of(family, stored, "embed_tokens.weight")
    layers = [f"{naming.prefix}layers.{number}." for number in range(llm.num_hidden_layers)]
    used = {name for name, _ in sources.values()}
    inside = {prefix: [name for name in used if name.startswith(prefix)] for prefix in layers}
    for name, tensor in stored.items():
        if not name.startswith(tuple(layers)) and not name.endswith(DERIVED):
            yield Part(name, (name,), (_plain(name, tensor, dtype),))
    for prefix in layers:
        names = tuple(sorted(inside[prefix]))
        if how is None:
            yield Part(prefix, names, tuple(_plain(name, stored[name], dtype) for name in names))
        else:
            yield Part(
                prefix, names, tuple(_layer_entries(prefix, names, stored, dtype, how)), quantized=True
            )


def _renamed(part: Part, family: str) -> Part:
    entries = tuple(replace(entry, name=name_in_files(family, entry.name)) for entry in part.entries)
    return replace(part, entries=entries)


def _require_different(parts: Iterable[Part]) -> None:
    """Check that no two tensors get the same name."""
    counts = Counter(entry.name for part in parts for entry in part.entries)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise CheckpointError(
            f"the model's files hold `{twice[0]}` twice, under an older and a newer name",
            code="MM434",
            hint="save the model once more with transformers, into an empty directory",
        )


def _plain(name: str, tensor: StoredTensor, dtype: str) -> TensorEntry:
    if tensor.dtype in _OTHERS:  # buffers, such as positions
        return TensorEntry(name, _OTHERS[tensor.dtype], tensor.shape)
    require_floats(name, tensor)
    return TensorEntry(name, dtype, tensor.shape)


def _layer_entries(
    prefix: str, names: Iterable[str], stored: Mapping[str, StoredTensor], dtype: str, how: How
) -> Iterator[TensorEntry]:
    linears = {f"{linear}.weight": linear for linear in linear_names(how.llm)}
    for name in names:
        linear = linears.get(name.removeprefix(prefix))
        if linear is None:
            yield _plain(name, stored[name], dtype)
        else:
            for suffix, kind, shape in stored_shapes(linear, stored[name].shape, how, dtype):
                yield TensorEntry(prefix + suffix, kind, shape)


def _shards(parts: Sequence[Part], most: int) -> list[list[Part]]:
    """Consecutive parts in groups of up to ``most`` bytes."""
    shards: list[list[Part]] = [[]]
    size = 0
    for part in parts:
        own = sum(entry.size for entry in part.entries)
        if shards[-1] and size + own > most:
            shards.append([])
            size = 0
        shards[-1].append(part)
        size += own
    return shards


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_index(out: Path, shards: Sequence[Sequence[Part]]) -> None:
    entries = [
        (entry, _file_name(number, len(shards)))
        for number, group in enumerate(shards, start=1)
        for part in group
        for entry in part.entries
    ]
    index = {
        "metadata": {"total_size": sum(entry.size for entry, _ in entries)},
        "weight_map": {entry.name: file for entry, file in sorted(entries, key=lambda item: item[0].name)},
    }
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tensors(
    part: Part,
    stored: Mapping[str, StoredTensor],
    dtype: str,
    how: How | None,
    inputs: Mapping[str, Inputs],
) -> Iterator[tuple[str, Iterable[Tensor]]]:
    """Name and blocks of each tensor of a part."""
    if how is None or not part.quantized:
        for name in part.names:
            yield name, _blocks(name, stored[name], dtype)
        return
    layer = {}
    for name in part.names:
        layer[name.removeprefix(part.prefix)] = stored[name].read(TensorSlice())
        require_finite(layer[name.removeprefix(part.prefix)].float(), name, stored[name].file, "float32")
    below = part.prefix[part.prefix.rindex("layers.") :]
    own = {name.removeprefix(below): value for name, value in inputs.items() if name.startswith(below)}
    for name, tensor in quantize_layer(layer, how, own):
        if str(tensor.dtype) == f"torch.{dtype}":
            require_finite(tensor.contiguous(), part.prefix + name, "the quantized layer", dtype)
        yield part.prefix + name, [tensor]


def _blocks(name: str, tensor: StoredTensor, dtype: str) -> Iterator[Tensor]:
    """A tensor in ``dtype``, in blocks of whole rows; integers as they are."""
    import torch

    whole = tensor.read(TensorSlice())
    if tensor.dtype in _OTHERS:
        yield whole
        return
    for rows in row_blocks(whole, _BLOCK) if whole.dim() else [whole]:
        block = rows.to(getattr(torch, dtype)).contiguous()
        require_finite(block, name, tensor.file, dtype)
        yield block
