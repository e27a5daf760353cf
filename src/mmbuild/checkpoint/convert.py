"""From a Hugging Face model to a unified checkpoint, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.checkpoint import writer
from mmbuild.checkpoint.config import CheckpointConfig, to_json
from mmbuild.checkpoint.errors import CheckpointError
from mmbuild.checkpoint.names import Naming, naming_of, unused
from mmbuild.checkpoint.numeric import require_finite
from mmbuild.checkpoint.progress import Progress, silent
from mmbuild.checkpoint.reader import rank_file
from mmbuild.checkpoint.split import check_ranks
from mmbuild.checkpoint.tensors import EMBEDDING, HEAD, Part, TensorSpec, llama_tensors
from mmbuild.checkpoint.weights import StoredTensor, open_weights

if TYPE_CHECKING:
    from torch import Tensor


def convert(
    model: Path, out: Path, family: str, config: CheckpointConfig, progress: Progress = silent
) -> None:
    """Write ``config.json`` and ``rank<R>.safetensors`` into ``out``.

    Args:
        model: Directory in Hugging Face layout.
        out: An existing directory.
        family: Whose names the weights have.
        config: What to write; unquantized.
        progress: Told the file and the share done.

    Raises:
        CheckpointError: A tensor is missing, has another shape, holds NaN or infinity, or is one that the
            checkpoint has no place for; or the ranks do not divide the model.
    """
    check_ranks(config.llm, config.tensor_parallel)
    specs = {spec.name: spec for spec in llama_tensors(config.llm)}
    with open_weights(model) as stored:
        naming = naming_of(family, stored)
        sources = _sources(specs, stored, naming, config)
        for rank in range(config.tensor_parallel):
            _write_rank(out, rank, specs=specs, sources=sources, config=config, progress=progress)
    (out / "config.json").write_text(json.dumps(to_json(config), indent=2, sort_keys=True) + "\n")


def _sources(
    specs: Mapping[str, TensorSpec],
    stored: Mapping[str, StoredTensor],
    naming: Naming,
    config: CheckpointConfig,
) -> dict[str, tuple[str, StoredTensor]]:
    """Full name and stored tensor of every part, by the part's name; checked before anything is written."""
    found: dict[str, tuple[str, StoredTensor]] = {}
    for part in (part for spec in specs.values() for part in spec.parts):
        full = naming.full(part.source)
        if part.source == HEAD and config.llm.tie_word_embeddings:
            full = naming.full(EMBEDDING)
        found[part.source] = (full, _checked(full, part, stored))
    # A tied head may be stored nevertheless; it is the embedding table then.
    extra = unused(naming, stored, [*(full for full, _ in found.values()), naming.head])
    if extra:
        raise CheckpointError(
            f"`{stored[extra[0]].file}` holds `{extra[0]}`"
            + (f" and {len(extra) - 1} more tensors" if len(extra) > 1 else "")
            + ", for which a checkpoint of this model has no place",
            code="MM434",
            hint="Merge adapters first; biases in a LLaMA decoder are not supported",
        )
    return found


def _checked(full: str, part: Part, stored: Mapping[str, StoredTensor]) -> StoredTensor:
    tensor = stored.get(full)
    if tensor is None:
        files = sorted({other.file for other in stored.values()})
        raise CheckpointError(
            f"tensor `{full}` is missing from {', '.join(files[:3])}{' ...' if len(files) > 3 else ''}",
            code="MM430",
            hint="Check that config.json belongs to these weights and that no shard is missing",
        )
    if tensor.shape != part.shape:
        raise CheckpointError(
            f"tensor `{full}` in `{tensor.file}` has shape {list(tensor.shape)}, "
            f"and config.json makes it {list(part.shape)}",
            code="MM431",
            hint="config.json and weights are of two models; download both again",
        )
    return tensor


def _write_rank(
    out: Path,
    rank: int,
    *,
    specs: Mapping[str, TensorSpec],
    sources: Mapping[str, tuple[str, StoredTensor]],
    config: CheckpointConfig,
    progress: Progress,
) -> None:
    ranks, llm = config.tensor_parallel, config.llm
    entries = writer.layout(
        writer.Entry(name, config.dtype, spec.shape(llm, rank, ranks)) for name, spec in specs.items()
    )
    total = sum(entry.size for entry in entries)

    def tensors() -> Iterator[tuple[str, Iterator[Tensor]]]:
        done = 0
        for entry in entries:
            progress(f"{rank_file(rank)}: {entry.name}", (rank + done / total) / ranks)
            yield entry.name, _parts(specs[entry.name], rank, sources, config)
            done += entry.size

    writer.write(out / rank_file(rank), entries, tensors())
    progress(rank_file(rank), (rank + 1) / ranks)


def _parts(
    spec: TensorSpec, rank: int, sources: Mapping[str, tuple[str, StoredTensor]], config: CheckpointConfig
) -> Iterator[Tensor]:
    import torch

    dtype = getattr(torch, config.dtype)
    for part in spec.parts:
        name, stored = sources[part.source]
        cut = part.rule(config.llm, rank, config.tensor_parallel)
        tensor = stored.read(cut).to(dtype).contiguous()
        require_finite(tensor, name, stored.file, config.dtype)
        yield tensor
        if cut.padding:
            yield torch.zeros(cut.padding, *part.shape[1:], dtype=dtype)
