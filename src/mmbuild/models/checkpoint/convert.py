"""From a Hugging Face model to a unified checkpoint, in blocks of rows that stay in a core's cache.

A block is cut out of the mapped file, converted, looked at and written while it is there: one pass over
memory to read and one to write, as ``cp`` does, and no memory that grows with the model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.progress import Progress, silent
from mmbuild.models import families
from mmbuild.models.checkpoint import writer
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.checkpoint.hf_weights import StoredTensor, open_weights, require_floats, row_blocks
from mmbuild.models.checkpoint.reader import rank_file
from mmbuild.models.checkpoint.tensor_parallel import check_ranks
from mmbuild.models.checkpoint.tensor_table import HEAD, SourceTensor, TensorSpec, tensors
from mmbuild.models.checkpoint.threads import map_ordered
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families.facts import Naming

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


# Buffers that older transformers saved though they follow from the config.
DERIVED = ("rotary_emb.inv_freq", "masked_bias", "attention.bias")


def full_name(naming: Naming, source: str) -> str:
    """Full name of a tensor of :mod:`mmbuild.models.checkpoint.tensor_table`."""
    return naming.head if source == HEAD else naming.prefix + source


def naming_of(family: str, names: Collection[str], first: str) -> Naming:
    """The naming that the model uses: the one that finds ``first``, a source of its tables.

    Raises:
        CheckpointError: MM430, no naming of the family fits.
    """
    candidates = families.family(family).NAMINGS
    for naming in candidates:
        if full_name(naming, first) in names:
            return naming
    expected = " nor ".join(f"`{full_name(naming, first)}`" for naming in candidates)
    raise CheckpointError(
        f"the weights hold neither {expected}",
        code="MM430",
        hint=f"Check that the weights are of family {family}",
    )


def unused_tensors(naming: Naming, names: Collection[str], used: Collection[str]) -> list[str]:
    """Tensors of the language model that no part of the checkpoint is made of (biases, adapters)."""
    return sorted(
        name
        for name in set(names) - set(used)
        if (name.startswith(naming.prefix) or name == naming.head)
        and not name.removeprefix(naming.prefix).startswith(naming.others)
        and not name.endswith((*DERIVED, *naming.ignored))
    )


# Unsigned integer of the same width, and the bits of the exponent: all set in NaN and infinity.
_EXPONENTS = {
    "float16": ("uint16", 0x7C00),
    "bfloat16": ("uint16", 0x7F80),
    "float32": ("uint32", 0x7F800000),
}
_CHUNK = 1 << 18  # elements; stays in the second-level cache


def require_finite(tensor: Tensor, name: str, file: str, dtype: str) -> None:
    """Refuse NaN and infinity in a contiguous CPU tensor.

    Looks at the bits, chunk by chunk, because numpy's ``isfinite`` on float16 takes ten times as long as
    copying the data.

    Raises:
        CheckpointError: MM432, with the tensor's name and file.
    """
    if not _all_finite(tensor, dtype):
        raise CheckpointError(
            f"tensor `{name}` in `{file}` holds NaN or infinity (as {dtype})",
            code="MM432",
            hint="The weights are damaged, or their values do not fit: try engine.dtype bfloat16",
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

# Bytes of a block: half of a common second-level cache.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Rank:
    """A rank and its file.

    Attributes:
        number: The rank.
        entries: What the file holds, by name.
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
        family: Whose names the weights have.
        configs: What to write, unquantized, by directory below ``out``
            (:func:`~mmbuild.models.checkpoint.config.components`).
        progress: Told the tensor and the share done.
        threads: How many tensors are worked on at once.

    Raises:
        CheckpointError: A tensor is missing, has another shape, holds NaN or infinity, or is one that the
            checkpoint has no place for; or the ranks do not divide the model.
    """
    for config in configs.values():
        check_ranks(config.llm, config.tensor_parallel)
    specs = {where: {spec.name: spec for spec in tensors(config.llm)} for where, config in configs.items()}
    with open_weights(model) as stored:
        sources = find_sources(
            family, specs, stored, tied=any(c.llm.tie_word_embeddings for c in configs.values())
        )
        for number, (where, config) in enumerate(configs.items()):
            _write(
                out / where, specs[where], sources, config, _share(progress, number, len(configs)), threads
            )


def _share(progress: Progress, number: int, count: int) -> Progress:
    """Progress of one component of several."""
    return lambda message, done: progress(message, None if done is None else (number + done) / count)


def _write(
    out: Path,
    specs: Mapping[str, TensorSpec],
    sources: Sources,
    config: CheckpointConfig,
    progress: Progress,
    threads: int,
) -> None:
    out.mkdir(exist_ok=True)
    _write_ranks(out, specs, sources, config, progress, threads)
    (out / "config.json").write_text(json.dumps(to_json(config), indent=2, sort_keys=True) + "\n")


def find_sources(
    family: str,
    specs: Mapping[str, Mapping[str, TensorSpec]],
    stored: Mapping[str, StoredTensor],
    *,
    tied: bool,
) -> dict[str, tuple[str, StoredTensor]]:
    """Full name and stored tensor of every part, by the part's name; checked before anything is written.

    Args:
        family: Whose names the weights have.
        specs: What is to be written, by component and name.
        stored: All tensors of the model.
        tied: Whether the config says that the head is the embedding table.

    Raises:
        CheckpointError: MM430 to MM434 as :func:`convert`; MM749, one holds integers.
    """
    parts = [part for component in specs.values() for spec in component.values() for part in spec.parts]
    embedding = parts[0].source
    naming = naming_of(family, stored, embedding)
    found: dict[str, tuple[str, StoredTensor]] = {}
    for part in parts:
        # A tied head is stored all the same where it differs; transformers 5 takes it then, whatever the config says.
        shared = part.source == HEAD and tied and naming.head not in stored
        name = full_name(naming, embedding if shared else part.source)
        found[part.source] = (name, _checked(name, part, stored))
    _require_all_used(naming, stored, [name for name, _ in found.values()])
    return found


def _require_all_used(naming: Naming, stored: Mapping[str, StoredTensor], used: list[str]) -> None:
    extra = unused_tensors(naming, stored, used)
    if extra:
        raise CheckpointError(
            f"`{stored[extra[0]].file}` holds `{extra[0]}`"
            + (f" and {len(extra) - 1} more tensors" if len(extra) > 1 else "")
            + ", for which a checkpoint of this model has no place",
            code="MM434",
            hint="Merge adapters first; biases in a LLaMA decoder are not supported",
        )


def _checked(full: str, part: SourceTensor, stored: Mapping[str, StoredTensor]) -> StoredTensor:
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
    require_floats(full, tensor)
    return tensor


def _write_ranks(
    out: Path,
    specs: Mapping[str, TensorSpec],
    sources: Sources,
    config: CheckpointConfig,
    progress: Progress,
    threads: int,
) -> None:
    with ExitStack() as files:
        ranks = [
            files.enter_context(_rank(out, rank, specs, config)) for rank in range(config.tensor_parallel)
        ]
        # All ranks of a tensor one after the other, so that the model is read once.
        names = list(specs)
        tasks = (
            partial(_write_tensor, rank, specs[name], sources, config) for name in names for rank in ranks
        )
        count = len(names) * len(ranks)
        for done, name in enumerate(map_ordered(tasks, threads), start=1):
            progress(name, done / count)


@contextmanager
def _rank(out: Path, rank: int, specs: Mapping[str, TensorSpec], config: CheckpointConfig) -> Iterator[_Rank]:
    entries = writer.layout(
        writer.TensorEntry(name, config.dtype, spec.shape(config.llm, rank, config.tensor_parallel))
        for name, spec in specs.items()
    )
    with writer.create(out / rank_file(rank), entries) as file:
        yield _Rank(rank, {entry.name: entry for entry in entries}, file)


def _write_tensor(rank: _Rank, spec: TensorSpec, sources: Sources, config: CheckpointConfig) -> str:
    """Write one tensor of one rank; its name."""
    written = 0
    for part in spec.parts:
        for block in rank_blocks(part, rank.number, sources, config):
            written += rank.file.put(spec.name, block, written)
    writer.check_filled(rank.entries[spec.name], written)
    return spec.name


def rank_blocks(
    part: SourceTensor, rank: int, sources: Sources, config: CheckpointConfig
) -> Iterator[Tensor]:
    """A rank's part in the checkpoint's dtype, block by block of whole rows.

    Raises:
        CheckpointError: MM432, NaN or infinity.
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
