"""Converts a Hugging Face model to a unified checkpoint, in blocks of rows that fit into a core's cache.

A block is read from the mapped file, converted, checked and written while it is in the cache. So memory is read once
and written once, as with ``cp``, and memory use does not grow with the model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.progress import BYTES, Amount, Progress, silent
from mmbuild.models import families
from mmbuild.models.checkpoint import writer
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.checkpoint.hf_weights import StoredTensor, open_weights, require_floats, row_blocks
from mmbuild.models.checkpoint.reader import rank_file
from mmbuild.models.checkpoint.tensor_parallel import check_ranks
from mmbuild.models.checkpoint.tensor_table import (
    DECODER_WORDS,
    HEAD,
    SourceTensor,
    TensorSpec,
    full_name,
    tensors,
)
from mmbuild.models.checkpoint.threads import map_ordered
from mmbuild.models.checkpoint.tied_embedding import with_embedding
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families.facts import Naming

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


# Buffers that older transformers saved, although they are derived from the config.
DERIVED = ("rotary_emb.inv_freq", "masked_bias", "attention.bias")


def naming_of(family: str, names: Collection[str], first: str) -> Naming:
    """The naming that the model uses: the one under which ``first``, a source tensor, exists.

    Raises:
        CheckpointError: MM430, no naming of the family fits.
    """
    candidates = families.family(family).NAMINGS
    for naming in candidates:
        if full_name(naming, first) in names:
            return naming
    expected = " nor ".join(f"`{full_name(naming, first)}`" for naming in candidates)
    raise CheckpointError(
        f"the weights contain neither {expected}",
        code="MM430",
        hint=f"check that the weights are of family {family}",
    )


def _unused_tensors(naming: Naming, names: Collection[str], used: Collection[str]) -> list[str]:
    """Tensors of the language model that the checkpoint does not use (biases, adapters)."""
    return sorted(
        name
        for name in set(names) - set(used)
        if (name.startswith(naming.prefix) or name == naming.head)
        and not name.removeprefix(naming.prefix).startswith(naming.others)
        and not name.endswith((*DERIVED, *naming.ignored))
    )


# Unsigned integer of the same width, and the exponent bits, which are all set in NaN and infinity.
_EXPONENTS = {
    "float16": ("uint16", 0x7C00),
    "bfloat16": ("uint16", 0x7F80),
    "float32": ("uint32", 0x7F800000),
}
_CHUNK = 1 << 18  # elements; fits into the L2 cache


def require_finite(tensor: Tensor, name: str, file: str, dtype: str) -> None:
    """Check that a contiguous CPU tensor contains no NaN or infinity.

    Tests the bits in chunks, because numpy's ``isfinite`` on float16 takes ten times as long as copying the data.

    Raises:
        CheckpointError: MM432, naming the tensor and the file.
    """
    if not _all_finite(tensor, dtype):
        raise CheckpointError(
            f"tensor `{name}` in `{file}` contains NaN or infinity (as {dtype})",
            code="MM432",
            hint="the weights are damaged, or their values overflow: try engine.dtype bfloat16",
        )


def _all_finite(tensor: Tensor, dtype: str) -> bool:
    import torch

    integer, exponent = _EXPONENTS[dtype]
    bits: np.ndarray = tensor.reshape(-1).view(torch.uint8).numpy().view(integer)
    mask = bits.dtype.type(exponent)
    return all(
        int((bits[start : start + _CHUNK] & mask).max(initial=0)) < exponent
        for start in range(0, len(bits), _CHUNK)
    )


# Full name and stored tensor of every part, by the part's name.
Sources = Mapping[str, tuple[str, StoredTensor]]

# Bytes of a block: half of a typical L2 cache.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Rank:
    """A rank and its file.

    Attributes:
        number: The rank.
        entries: Tensors of the file by name.
        file: The file.
    """

    number: int
    entries: Mapping[str, writer.TensorEntry]
    file: writer.OpenFile


def convert(
    model: Path,
    out: Path,
    family: str,
    configs: Mapping[str, CheckpointConfig],
    progress: Progress = silent,
    threads: int = 1,
) -> None:
    """Write ``config.json`` and ``rank<R>.safetensors`` of every component.

    Args:
        model: Directory in Hugging Face layout.
        out: An existing directory.
        family: Family that defines the weights' names.
        configs: Unquantized configs by directory below ``out``
            (:func:`~mmbuild.models.checkpoint.config.components`).
        progress: Called with each tensor and the bytes that are written, of all components and ranks.
        threads: Number of tensors to convert in parallel.

    Raises:
        CheckpointError: A tensor is missing, has the wrong shape, contains NaN or infinity, or has no place in the
            checkpoint; or the ranks do not divide the model.
    """
    for config in configs.values():
        check_ranks(config.llm, config.tensor_parallel)
    specs = {where: {spec.name: spec for spec in tensors(config.llm)} for where, config in configs.items()}
    with open_weights(model) as stored:
        sources = find_sources(
            family, specs, stored, tied=any(c.llm.tie_word_embeddings for c in configs.values())
        )
        total = sum(
            entry.size
            for where, config in configs.items()
            for rank in range(config.tensor_parallel)
            for entry in _entries(rank, specs[where], config)
        )
        done = 0
        for where, config in configs.items():
            for name, size in _write(out / where, specs[where], sources, config, threads):
                done += size
                progress(name, Amount(done, total, BYTES))


def _write(
    out: Path,
    specs: Mapping[str, TensorSpec],
    sources: Sources,
    config: CheckpointConfig,
    threads: int,
) -> Iterator[tuple[str, int]]:
    """Write a component; yields the name and the bytes of each tensor of a rank once it is written."""
    out.mkdir(exist_ok=True)
    yield from _write_ranks(out, specs, sources, config, threads)
    (out / "config.json").write_text(json.dumps(to_json(config), indent=2, sort_keys=True) + "\n")


def find_sources(
    family: str,
    specs: Mapping[str, Mapping[str, TensorSpec]],
    stored: Mapping[str, StoredTensor],
    *,
    tied: bool,
) -> dict[str, tuple[str, StoredTensor]]:
    """Full name and stored tensor of every part, by the part's name; validated before anything is written.

    Args:
        family: Family that defines the weights' names.
        specs: Tensors to write, by component and name.
        stored: All tensors of the model.
        tied: Whether the config ties the head to the embedding table.

    Raises:
        CheckpointError: MM430 to MM434 as :func:`convert`, MM434 also for a tensor under two names; MM749, a tensor
            holds integers.
    """
    parts = [part for component in specs.values() for spec in component.values() for part in spec.parts]
    embedding = parts[0].source
    stored = with_embedding(stored, family, embedding, tied=tied)
    naming = naming_of(family, stored, embedding)
    sources: dict[str, tuple[str, StoredTensor]] = {}
    for part in parts:
        # If a tied table differs it is stored anyway, and transformers 5 uses it regardless of the config.
        shared = part.source == DECODER_WORDS or (part.source == HEAD and tied)
        own = full_name(naming, part.source)
        name = full_name(naming, embedding) if shared and own not in stored else own
        sources[part.source] = (name, _checked(name, part, stored))
    _require_one_name(family, stored, sources)
    _require_all_used(naming, stored, [name for name, _ in sources.values()])
    return sources


def _require_one_name(family: str, stored: Mapping[str, StoredTensor], sources: Sources) -> None:
    """Check that no tensor is also stored under the name of another release: transformers takes the last one."""
    for source, (name, _) in sources.items():
        for naming in families.family(family).NAMINGS:
            other = full_name(naming, source)
            if other != name and other in stored:
                raise stored_twice(other, name)


def stored_twice(name: str, other: str) -> CheckpointError:
    """MM434: a file has a tensor under the names of two releases of transformers."""
    return CheckpointError(
        f"the weights hold one tensor twice, as `{name}` and as `{other}`, and programs take one or the other",
        code="MM434",
        hint="load the model with transformers, check its answers, and save it into an empty directory",
    )


def _require_all_used(naming: Naming, stored: Mapping[str, StoredTensor], used: list[str]) -> None:
    extra = _unused_tensors(naming, stored, used)
    if extra:
        raise CheckpointError(
            f"`{stored[extra[0]].file}` contains `{extra[0]}`"
            + (f" and {len(extra) - 1} more tensors" if len(extra) > 1 else "")
            + ", for which a checkpoint of this model has no place",
            code="MM434",
            hint="merge adapters first; biases in a LLaMA decoder are not supported",
        )


def _checked(full: str, part: SourceTensor, stored: Mapping[str, StoredTensor]) -> StoredTensor:
    tensor = stored.get(full)
    if tensor is None:
        files = sorted({other.file for other in stored.values()})
        raise CheckpointError(
            f"tensor `{full}` is missing from {', '.join(files[:3])}{' ...' if len(files) > 3 else ''}",
            code="MM430",
            hint="check that config.json belongs to these weights and that no shard is missing",
        )
    require_shape(full, tensor, part.shape)
    require_floats(full, tensor)
    return tensor


def require_shape(name: str, tensor: StoredTensor, implied: tuple[int, ...]) -> None:
    """Check the shape of a tensor.

    Raises:
        CheckpointError: MM431, config.json implies another one.
    """
    if tensor.shape != implied:
        raise CheckpointError(
            f"tensor `{name}` in `{tensor.file}` has shape {list(tensor.shape)}, "
            f"but config.json implies {list(implied)}",
            code="MM431",
            hint="config.json does not match the weights; download both again",
        )


def _write_ranks(
    out: Path,
    specs: Mapping[str, TensorSpec],
    sources: Sources,
    config: CheckpointConfig,
    threads: int,
) -> Iterator[tuple[str, int]]:
    with ExitStack() as files:
        ranks = [
            files.enter_context(_rank(out, rank, specs, config)) for rank in range(config.tensor_parallel)
        ]
        # Process all ranks of a tensor in succession, so that the model is read once.
        tasks = (
            partial(_write_tensor, rank, spec, sources, config) for spec in specs.values() for rank in ranks
        )
        yield from map_ordered(tasks, threads)


@contextmanager
def _rank(out: Path, rank: int, specs: Mapping[str, TensorSpec], config: CheckpointConfig) -> Iterator[_Rank]:
    entries = writer.layout(_entries(rank, specs, config))
    with writer.create(out / rank_file(rank), entries) as file:
        yield _Rank(rank, {entry.name: entry for entry in entries}, file)


def _entries(
    rank: int, specs: Mapping[str, TensorSpec], config: CheckpointConfig
) -> Iterator[writer.TensorEntry]:
    for name, spec in specs.items():
        yield writer.TensorEntry(name, config.dtype, spec.shape(config.llm, rank, config.tensor_parallel))


def _write_tensor(
    rank: _Rank, spec: TensorSpec, sources: Sources, config: CheckpointConfig
) -> tuple[str, int]:
    """Write one tensor of one rank; returns its name and bytes."""
    written = 0
    for part in spec.parts:
        for block in rank_blocks(part, rank.number, sources, config):
            written += rank.file.put(spec.name, block, written)
    writer.check_filled(rank.entries[spec.name], written)
    return spec.name, written


def rank_blocks(
    part: SourceTensor, rank: int, sources: Sources, config: CheckpointConfig
) -> Iterator[Tensor]:
    """Yield a rank's part in the checkpoint's dtype, in blocks of whole rows.

    Raises:
        CheckpointError: MM432, the tensor contains NaN or infinity.
    """
    import torch

    dtype = getattr(torch, config.dtype)
    name, stored = sources[part.source]
    cut = part.rule(config.llm, rank, config.tensor_parallel)
    tensor = stored.read(cut)
    if part.transposed:
        tensor = tensor.t()
    for rows in row_blocks(tensor, _BLOCK):
        block = rows.to(dtype).contiguous()
        require_finite(block, name, stored.file, config.dtype)
        yield block
    if cut.padding:
        yield torch.zeros(cut.padding, *part.shape[1:], dtype=dtype)
