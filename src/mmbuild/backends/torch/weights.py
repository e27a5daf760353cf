"""Binding a rank file and the session's own buffers to compiled packages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmbuild.backends.torch import weight_layouts
from mmbuild.backends.torch.calibrated_linear import bound
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.package_shapes import PACKAGE_PREFIX
from mmbuild.base.files import FileRefusedError, open_regular
from mmbuild.base.limits import TENSOR_HEADER
from mmbuild.models.checkpoint.calibrated_layout import BY_QUANT_ALGO, check_scales
from mmbuild.models.errors import EngineError

_HEADER_SIZE = 8
"""Bytes of a safetensors file that say how long its header is."""


def load_rank_file(path: Path, device: str) -> dict[str, Tensor]:
    """Every tensor of a rank file: on the CPU views of the mapped file, on CUDA copies on the current GPU.

    Raises:
        EngineError: The file is missing or truncated.
    """
    # safetensors takes "cuda" for the first GPU, whichever is current.
    place = f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device
    require_weights(path)
    try:
        with safe_open(path, framework="pt", device=place) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def require_weights(path: Path) -> None:
    """Refuse a FIFO or a device, and a header that would take the memory of the machine, before safetensors reads it.

    Raises:
        EngineError: MM504.
    """
    try:
        descriptor = open_regular(path)
        try:
            size = int.from_bytes(os.pread(descriptor, _HEADER_SIZE, 0), "little")
            if not 0 < size <= min(TENSOR_HEADER.size, os.fstat(descriptor).st_size):
                raise unreadable(path, "its header is damaged")
        finally:
            os.close(descriptor)
    except FileRefusedError as error:
        raise unreadable(path, f"it {error.problem}") from None
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error


def unreadable(path: Path, why: object) -> EngineError:
    """The error for weights that cannot be read."""
    return EngineError(
        f"the weights `{path}` cannot be read: {why}",
        code="MM504",
        hint="Restore the engine directory with `mmbuild apply` on its recipe",
    )


def arrange(tensors: Mapping[str, Tensor], config: EngineConfig, device: str) -> dict[str, Tensor]:
    """A checkpoint's tensors in the layout that ``device``'s packages read (``weight_layouts.py``).

    Raises:
        EngineError: MM544, scales of a calibrated checkpoint cannot be ones.
    """
    algorithm = config.quant_algo
    if algorithm in BY_QUANT_ALGO:
        check_scales(tensors)
        return {name: bound(name, tensor, config) for name, tensor in tensors.items()}
    if algorithm is None or weight_layouts.layout_of(device) == "plain":
        return dict(tensors)
    return {
        name: weight_layouts.pack_rows(weight_layouts.widen_plain(tensor, algorithm), algorithm)
        if tensor.dtype == torch.int8
        else tensor
        for name, tensor in tensors.items()
    }


def rank_files(directory: Path, config: EngineConfig, rank: int) -> dict[str, Path]:
    """A rank's files below an engine's ``llm`` directory, by the prefix of their names in the module."""
    name = f"rank{rank}.safetensors"
    if not config.llm.cross_attention:
        return {"": directory / name}
    parts = ("encoder", "decoder") if config.encoder else ("decoder",)
    return {f"{part}.": directory / part / name for part in parts}


def bind(constants: Mapping[str, Tensor], needed: Iterable[str], package: str) -> dict[str, Tensor]:
    """The constants a package asks for, under the names it asks with.

    Raises:
        EngineError: The package needs a tensor that neither the checkpoint nor the session has.
    """
    names = {name: name.removeprefix(PACKAGE_PREFIX) for name in needed}
    missing = sorted(plain for plain in names.values() if plain not in constants)
    if missing:
        raise EngineError(
            f"package `{package}` needs `{missing[0]}`"
            + (f" and {len(missing) - 1} more tensors" if len(missing) > 1 else "")
            + ", which the weights do not have",
            code="MM505",
            hint="The engine directory mixes files of two builds; apply its recipe again",
        )
    return {name: constants[plain] for name, plain in names.items()}
