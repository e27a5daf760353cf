"""Reads a Hugging Face model's weights by name and slice, without loading the model.

safetensors files (one, or shards with an index) are mapped. Older ``pytorch_model*.bin`` files are opened with
``torch.load(weights_only=True, mmap=True)``, which runs no code from the pickle and also maps the data. Files from
before torch 1.6 are not zip archives and cannot be mapped; small ones are read completely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from mmbuild.base.files import FileRefusedError, entries, read_beginning, read_object, require_regular
from mmbuild.base.limits import SHARD_INDEX
from mmbuild.base.safetensors_header import HeaderProblemError, require_header
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
from mmbuild.models.errors import CheckpointError
from mmbuild.models.files.hf_layout import is_weights
from mmbuild.models.files.other_weights import hint_for_other_weights
from mmbuild.models.files.weight_files import other_format

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Number formats of weights; mmbuild's own checkpoints also contain integers and float8."""
# Limit of the total size of pickles from before torch 1.6, which cannot be mapped.
_READ_WHOLE = 1 << 30
_PARTIAL = (".incomplete", ".part")
_SHOWN = 80  # characters of a name in a message
_MARK = "WeightsUnpickler error:"  # torch's, before the reason
# safetensors' names of torch's number formats.
_FORMATS = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
}

# Single file and index of each kind of weights, preferred first.
WEIGHT_FILES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a weight file.

    Attributes:
        file: The file's name.
        shape: Its shape.
        read: Returns the part selected by a :class:`TensorSlice`, without padding; a view of the mapped file if its
            bytes are contiguous.
        dtype: Its number format, by its safetensors name.
    """

    file: str
    shape: tuple[int, ...]
    read: Callable[[TensorSlice], Tensor]
    dtype: str = "F32"


WEIGHTS = (".weight", ".bias")
"""Suffixes of most trained tensors."""


def require_floats(name: str, tensor: StoredTensor) -> None:
    """Check that a tensor holds floats according to its header.

    Raises:
        CheckpointError: MM749, it holds integers.
    """
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(
            f"tensor `{name}` in `{tensor.file}` has the number format {tensor.dtype}, "
            "but weights must be floats (F32, F16, BF16 or F64)",
            code="MM749",
            hint="download the file again; if the model is quantized, use the unquantized one",
        )


def row_blocks(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """Yield views of whole rows in order, of about ``size`` bytes each, but at least one row."""
    rows = max(1, size * len(tensor) // max(1, tensor.numel() * tensor.element_size()))
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows]


def weight_files(model: Path) -> list[str]:
    """Names of the weight files in a directory and its subdirectories.

    Raises:
        CheckpointError: MM402, there are none; MM405, a file named by an index is missing; MM733, it has another name
            than a shard.
    """
    below = [path for path in entries(model) if path.is_dir()]
    files = [
        *own_weight_files(model),
        *(f"{path.name}/{name}" for path in below for name in own_weight_files(path)),
    ]
    if files:
        return files
    raise CheckpointError(
        f"`{model}` contains no weights: neither {' nor '.join(name for pair in WEIGHT_FILES for name in pair)}",
        code="MM402",
        hint=_unfinished(model)
        or hint_for_other_weights(model)
        or "set model.source to a directory in Hugging Face layout",
    )


def _unfinished(model: Path) -> str | None:
    """A hint for a directory in which a download left a partial file; else None."""
    partial = next((path.name for path in sorted(entries(model)) if path.name.endswith(_PARTIAL)), None)
    return None if partial is None else f"complete the download: `{partial}` is the beginning of a file"


def own_weight_files(directory: Path) -> list[str]:
    """Names of the weight files in a directory, without subdirectories; may be empty.

    Raises:
        CheckpointError: MM403, MM405 and MM733 as :func:`weight_files`.
    """
    for single, index in WEIGHT_FILES:
        if (directory / index).exists():
            return _indexed(directory, index)
        if (directory / single).exists():
            return [single]
    return []


def _indexed(model: Path, index: str) -> list[str]:
    try:
        placed = read_object(model / index, SHARD_INDEX).get("weight_map")
    except FileRefusedError as error:
        raise _invalid_index(model / index, error.problem) from None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise _invalid_index(model / index, "does not map tensors to files in `weight_map`")
    names = sorted(set(placed.values()))
    # Files with other names are not downloaded, and are in no key.
    odd = next((name for name in names if not is_weights(name)), None)
    if odd is not None:
        raise CheckpointError(
            f"`{index}` in `{model}` names `{_short(odd)}`, which is not the name of a shard",
            code="MM733",
            hint=f"call shards `{_shard_name(index)}`, next to the index, in the index too; or load the model with "
            "transformers and save it again",
        )
    present = {path.name for path in entries(model)}
    missing = next((name for name in names if name not in present), None)
    if missing is not None:
        raise CheckpointError(
            f"`{index}` names `{_short(missing)}`, which is not in `{model}`",
            code="MM405",
            hint="complete the download; every shard named by the index is needed",
        )
    return names


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN - 4]} ..."


def _shard_name(index: str) -> str:
    stem, ending = index.removesuffix(".index.json").rsplit(".", 1)
    return f"{stem}-00001-of-00002.{ending}"


def _invalid_index(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"`{path}` is not an index of weight files: it {problem}",
        code="MM403",
        hint="download the file again",
    )


@contextmanager
def open_weights(model: Path) -> Iterator[Mapping[str, StoredTensor]]:
    """All tensors of a model directory by name; the files stay open inside the ``with`` block.

    Tensors in a subdirectory are named ``directory/name``.

    Raises:
        CheckpointError: A file is missing or truncated, or contains more than tensors.
    """
    with ExitStack() as stack:
        tensors: dict[str, StoredTensor] = {}
        for name in weight_files(model):
            opener = _open_safetensors if name.endswith(".safetensors") else _open_pickle
            below = name.rpartition("/")[0]
            opened = opener(model / name, stack)
            tensors.update({f"{below}/{key}": value for key, value in opened.items()} if below else opened)
        yield tensors


def _open_safetensors(path: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        require_header(path)
        file = stack.enter_context(safe_open(path, framework="pt"))
    except (HeaderProblemError, SafetensorError) as error:
        raise CheckpointError(
            f"`{path}` is not a valid safetensors file: {error}",
            code="MM403",
            hint="the file is truncated or damaged; download it again",
        ) from error

    def stored(name: str) -> StoredTensor:
        view = file.get_slice(name)

        def read(cut: TensorSlice) -> Tensor:
            return view[tuple(slice(*edges) for edges in (cut.rows or (None,), cut.columns) if edges)]

        return StoredTensor(path.name, tuple(view.get_shape()), read, view.get_dtype())

    return {name: stored(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _open_pickle(path: Path, stack: ExitStack) -> dict[str, StoredTensor]:  # noqa: ARG001
    import torch

    require_regular(path)
    other = other_format(path)
    if other is not None:
        raise CheckpointError(f"`{path}` {other.problem}", code=other.code, hint=other.hint)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_mappable(path))
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise _not_plain(path, f"it holds a {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise _not_plain(path, f"`{name}` is a {type(value).__name__}")

    def stored(tensor: Tensor) -> StoredTensor:
        return StoredTensor(
            path.name,
            tuple(tensor.shape),
            lambda cut: tensor[tuple(slice(*edges) for edges in (cut.rows or (None,), cut.columns) if edges)],
            _FORMATS.get(str(tensor.dtype), str(tensor.dtype)),
        )

    return {name: stored(tensor) for name, tensor in content.items()}


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """What is wrong with a pickle, without torch's advice to load it all the same."""
    _, marked, reason = str(error).partition(_MARK)
    if isinstance(error, UnpicklingError) and marked:
        return _not_plain(path, reason.strip().partition("\n")[0].partition(". Please ")[0].rstrip("."))
    line = (str(error) or type(error).__name__).partition("\n")[0].partition(". ")[0].rstrip(".")
    return CheckpointError(f"`{path}` is damaged: {line}", code="MM406", hint="download the file again")


def _mappable(path: Path) -> bool:
    """Whether a pickle can be mapped; otherwise it is read completely.

    Raises:
        CheckpointError: MM407, it cannot be mapped and is too large to be read completely.
    """
    if _is_archive(path):
        return True
    older = [file for file in path.parent.glob("pytorch_model*.bin") if not _is_archive(file)]
    size = sum(file.stat().st_size for file in older)
    if size > _READ_WHOLE:
        raise CheckpointError(
            f"`{path}` has the format of torch before 1.6, which cannot be mapped, "
            f"and {len(older)} such files take {size / 1e9:.1f} GB",
            code="MM407",
            hint="save each again: torch.save(torch.load(FILE, map_location='cpu', weights_only=True), FILE)",
        )
    return False


def _is_archive(path: Path) -> bool:
    # Checks the beginning of the file, because a truncated archive has lost its end.
    return read_beginning(path, 4) == b"PK\x03\x04"


def _not_plain(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"`{path}` contains more than plain tensors: {reason}",
        code="MM406",
        hint="mmbuild runs no code from weight files; if you trust the file, convert it to safetensors",
    )
