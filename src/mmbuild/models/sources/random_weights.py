"""Writes a model with real shapes and random weights, for builds and benchmarks without a download.

All tensors are views of one block of normal random numbers (standard deviation 0.02, from the seed) at different
offsets. Norms are ones and biases zeros, as in a new model. That keeps activations finite and is as fast as writing;
the answers of such a model are meaningless.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.base.files import open_regular
from mmbuild.base.progress import BYTES, Amount, Progress
from mmbuild.models.checkpoint import writer
from mmbuild.models.sources.allowed_places import Places
from mmbuild.models.sources.resolve import source_files

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 4 << 30
# Not a multiple of any row, so that rows of one tensor differ.
_BLOCK = 8_388_593
_STEP = 1_299_709
_DEVIATION = 0.02


def copy_small_files(
    model: Path, out: Path, directories: Sequence[str] = (), places: Places | None = None
) -> None:
    """Copy config, tokenizer and processor of a model directory.

    Raises:
        FileRefusedError: MM745, not a regular file; MM747, a link leads outside ``places``.
    """
    for name in source_files(model, weights=False, directories=directories):
        (out / name).parent.mkdir(exist_ok=True)
        with (
            os.fdopen(open_regular(model / name, within=places), "rb") as file,
            (out / name).open("wb") as copy,
        ):
            shutil.copyfileobj(file, copy)


def write_weights(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    out: Path,
    seed: int,
    dtype: str,
    progress: Progress,
    *,
    shard: int = SHARD,
) -> None:
    """Write all tensors of the model in shards, their index, and ``config.json`` if it is missing.

    Args:
        config: The model's ``config.json``.
        shapes: Shape of every tensor by name; ``directory/name`` is written to that subdirectory.
        out: An existing directory.
        seed: Seed of the random numbers.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        progress: Called with each file and the bytes that are written, of all directories.
        shard: Maximum size of a shard in bytes; each has at least one tensor.
    """
    import torch

    if not (out / "config.json").exists():
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    block = torch.empty(_BLOCK).normal_(0, _DEVIATION, generator=torch.Generator().manual_seed(seed))
    block = block.to(getattr(torch, dtype))
    place = {name: i for i, name in enumerate(shapes)}
    total = sum(writer.TensorEntry(name, dtype, shape).size for name, shape in shapes.items())
    done = 0

    def count(file: str, piece: Tensor) -> None:
        nonlocal done
        done += piece.nbytes
        progress(f"writing {file}", Amount(done, total, BYTES))

    for directory in sorted({name.rpartition("/")[0] for name in shapes}):
        prefix = f"{directory}/" if directory else ""
        own = {name.removeprefix(prefix): name for name in shapes if name.rpartition("/")[0] == directory}
        entries = [writer.TensorEntry(short, dtype, shapes[name]) for short, name in own.items()]
        places = {short: place[name] for short, name in own.items()}
        (out / directory).mkdir(exist_ok=True)
        _write_shards(out / directory, list(_shards(entries, shard)), block, places, count)


def _write_shards(
    out: Path,
    shards: list[list[writer.TensorEntry]],
    block: Tensor,
    places: Mapping[str, int],
    count: Callable[[str, Tensor], None],
) -> None:
    names = _names(len(shards))
    for file, entries in zip(names, shards, strict=True):
        ordered = writer.layout(entries)
        parts = (
            (entry.name, _counted(_values(entry, block, places[entry.name]), partial(count, file)))
            for entry in ordered
        )
        writer.write(out / file, ordered, parts)
    if len(shards) > 1:
        _write_index(out, dict(zip(names, shards, strict=True)))


def _shards(entries: list[writer.TensorEntry], limit: int) -> Iterator[list[writer.TensorEntry]]:
    shard: list[writer.TensorEntry] = []
    size = 0
    for entry in entries:
        if shard and size + entry.size > limit:
            yield shard
            shard, size = [], 0
        shard.append(entry)
        size += entry.size
    yield shard


def _names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def _counted(pieces: Iterator[Tensor], count: Callable[[Tensor], None]) -> Iterator[Tensor]:
    """``pieces``; calls ``count`` with each once it is written, which is when the next one is requested."""
    for piece in pieces:
        yield piece
        count(piece)


def _values(entry: writer.TensorEntry, block: Tensor, index: int) -> Iterator[Tensor]:
    """Yield the values of one tensor in pieces, which are views of the block."""
    import torch

    count = 1
    for size in entry.shape:
        count *= size
    if len(entry.shape) <= 1 and ("norm" in entry.name or entry.name.endswith("bias")):
        yield torch.full(entry.shape, 0.0 if entry.name.endswith("bias") else 1.0, dtype=block.dtype)
        return
    start = index * _STEP % len(block)
    while count:
        piece = block[start : start + count]
        yield piece
        count -= len(piece)
        start = 0


def _write_index(out: Path, shards: Mapping[str, list[writer.TensorEntry]]) -> None:
    content = {
        "metadata": {"total_size": sum(entry.size for shard in shards.values() for entry in shard)},
        "weight_map": {entry.name: file for file, shard in shards.items() for entry in shard},
    }
    (out / "model.safetensors.index.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
