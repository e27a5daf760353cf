"""Reading a Hugging Face model's weights by name and slice, without loading the model.

safetensors files (one, or shards with an index) are mapped; older ``pytorch_model*.bin`` files are opened
with ``torch.load(weights_only=True, mmap=True)``, which runs no code of the pickle and maps the data too.
Those from before torch 1.6 are no zip archives and cannot be mapped; small ones are read whole.
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
from mmbuild.base.safetensors_header import FLOATS, HeaderProblemError, require_header
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
from mmbuild.models.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

# Pickles from before torch 1.6 cannot be mapped: they are read whole, as long as they are this small together.
_READ_WHOLE = 1 << 30
_SHOWN = 80  # characters of a name in a message
_ENDINGS = (".safetensors", ".bin")
# What safetensors calls the number formats of torch that weights come in.
_FORMATS = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
}

# Single file and index of each kind of weights, the preferred first.
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
        read: Gives the part that a :class:`TensorSlice` names (padding left out); a view of the mapped file where
            its bytes are contiguous.
        dtype: Its number format, by the name that safetensors has for it.
    """

    file: str
    shape: tuple[int, ...]
    read: Callable[[TensorSlice], Tensor]
    dtype: str = "F32"


WEIGHTS = (".weight", ".bias")
"""What the names of trained tensors end with, though a few end otherwise."""


def require_floats(name: str, tensor: StoredTensor) -> None:
    """Refuse weights whose header calls them integers: any bytes can be read as those.

    Raises:
        CheckpointError: MM749.
    """
    if tensor.dtype not in FLOATS:
        raise CheckpointError(
            f"tensor `{name}` in `{tensor.file}` holds numbers of the format {tensor.dtype}, "
            "and weights are floats (F32, F16, BF16 or F64)",
            code="MM749",
            hint="Download the file again; of a quantized model, take the unquantized one",
        )


def row_blocks(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """Views of whole rows, in order, of about ``size`` bytes each and at least one row."""
    rows = max(1, size * len(tensor) // max(1, tensor.numel() * tensor.element_size()))
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows]


def weight_files(model: Path) -> list[str]:
    """Names of the files that hold the weights: the directory's own, and those of directories below it.

    Raises:
        CheckpointError: MM402 where there are none, MM405 where an index names one that is missing.
    """
    below = [path for path in entries(model) if path.is_dir()]
    files = [
        *own_weight_files(model),
        *(f"{path.name}/{name}" for path in below for name in own_weight_files(path)),
    ]
    if files:
        return files
    raise CheckpointError(
        f"`{model}` holds no weights: neither {' nor '.join(name for pair in WEIGHT_FILES for name in pair)}",
        code="MM402",
        hint="Point model.source at a directory in Hugging Face layout",
    )


def own_weight_files(directory: Path) -> list[str]:
    """Names of the files that hold weights in a directory itself; none where it has no weights.

    Raises:
        CheckpointError: MM403 and MM405 as :func:`weight_files`.
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
        raise _no_index(model / index, error.problem) from None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise _no_index(model / index, "names no file for each tensor in `weight_map`")
    names = sorted(set(placed.values()))
    present = {path.name for path in entries(model)}
    missing = next((name for name in names if name not in present), None)
    if missing is not None:
        shown = missing if len(missing) <= _SHOWN else f"{missing[: _SHOWN - 4]} ..."
        raise CheckpointError(
            f"`{index}` names `{shown}`, which is not in `{model}`",
            code="MM405",
            hint="Complete the download; every shard that the index names is needed",
        )
    wrong = next((name for name in names if not name.endswith(_ENDINGS)), None)
    if wrong is not None:
        raise _no_index(model / index, f"names `{wrong}`, which is not a file of weights")
    return names


def _no_index(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"`{path}` is no index of weight files: it {problem}", code="MM403", hint="Download the file again"
    )


@contextmanager
def open_weights(model: Path) -> Iterator[Mapping[str, StoredTensor]]:
    """All tensors of a model directory by name; the files stay open inside the ``with`` block.

    Tensors of a directory below it go by ``directory/name``.

    Raises:
        CheckpointError: A file is missing, truncated or not plain tensors.
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
            f"`{path}` cannot be read as safetensors: {error}",
            code="MM403",
            hint="The file is truncated or damaged; download it again",
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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_mappable(path))
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise _not_plain(path, (str(error) or type(error).__name__).splitlines()[0]) from error
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


def _mappable(path: Path) -> bool:
    """Whether a pickle can be mapped.

    Raises:
        CheckpointError: MM407, it cannot, and is too large to be read whole.
    """
    if _is_archive(path):
        return True
    older = [file for file in path.parent.glob("pytorch_model*.bin") if not _is_archive(file)]
    size = sum(file.stat().st_size for file in older)
    if size > _READ_WHOLE:
        raise CheckpointError(
            f"`{path}` is in the form of torch before 1.6, which can only be read whole, "
            f"and {len(older)} such files take {size / 1e9:.1f} GB",
            code="MM407",
            hint="Save each again: torch.save(torch.load(FILE, map_location='cpu', weights_only=True), FILE)",
        )
    return False


def _is_archive(path: Path) -> bool:
    # By its beginning: a truncated archive has lost its end, and is an archive still.
    return read_beginning(path, 4) == b"PK\x03\x04"


def _not_plain(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"`{path}` is not a file of plain tensors: {reason}",
        code="MM406",
        hint="mmbuild runs no code from weight files; convert it to safetensors where you trust it",
    )
