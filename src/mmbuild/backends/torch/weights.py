"""Loads and validates weight files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmbuild.backends.torch import linear, packages
from mmbuild.backends.torch.build_module import weights_of
from mmbuild.backends.torch.calibrated_linear import group_words, has_words
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.package_shapes import check_sizes
from mmbuild.base.files import FileRefusedError, open_regular
from mmbuild.base.formatting import size_text
from mmbuild.base.limits import TENSOR_HEADER
from mmbuild.models.checkpoint.calibrated_layout import BY_QUANT_ALGO, check_scales
from mmbuild.models.errors import EngineError

_HEADER_SIZE = 8
"""Bytes at the start of a safetensors file that hold the length of its header."""


def load_rank_file(path: Path, device: str) -> dict[str, Tensor]:
    """Load all tensors of a rank file: on the CPU views of the mapped file, on CUDA copies on the current GPU.

    Raises:
        EngineError: The file is missing or truncated.
    """
    # safetensors interprets "cuda" as the first GPU, not the current one.
    place = f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device
    require_weights(path)
    try:
        with safe_open(path, framework="pt", device=place) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def require_weights(path: Path) -> None:
    """Check that a file is regular and that its header is not too large for memory, before safetensors reads it.

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


def unreadable(path: Path, reason: object) -> EngineError:
    """The error for weights that cannot be read."""
    return EngineError(
        f"cannot read the weights `{path}`: {reason}",
        code="MM504",
        hint="restore the engine directory with `mmbuild apply` on its recipe",
    )


def select(tensors: Mapping[str, Tensor], names: Sequence[str], path: Path) -> list[Tensor]:
    """The tensors that a package takes, by name.

    Raises:
        EngineError: MM505, one is missing.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise EngineError(
            f"package `{path.name}` needs `{missing[0]}`"
            + (f" and {len(missing) - 1} more tensors" if len(missing) > 1 else "")
            + ", which the weights do not contain",
            code="MM505",
            hint="the engine directory mixes files of two builds; apply its recipe again",
        )
    return [tensors[name] for name in names]


def arrange(tensors: Mapping[str, Tensor], config: EngineConfig, device: str) -> dict[str, Tensor]:
    """Convert a checkpoint's tensors to the layout of packages for ``device`` (``linear.py``).

    Raises:
        CheckpointError: MM544, scales of a calibrated checkpoint are invalid.
    """
    algorithm = config.quant_algo
    if algorithm in BY_QUANT_ALGO:
        check_scales(tensors)
    if algorithm is None or linear.layout_of(device) == "plain":
        return dict(tensors)
    if algorithm == "W4A16_AWQ":
        return {name: _in_words(name, tensors) for name in tensors}
    if algorithm in BY_QUANT_ALGO:
        return dict(tensors)
    return {
        name: linear.pack_rows(linear.widen_plain(tensor, algorithm), algorithm)
        if tensor.dtype == torch.int8
        else tensor
        for name, tensor in tensors.items()
    }


def _in_words(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """A tensor of an AWQ checkpoint, packed weights in the order that CUDA's kernel reads."""
    tensor, scale = tensors[name], tensors.get(name.removesuffix("weight") + "weights_scaling_factor")
    if tensor.dtype != torch.int8 or scale is None:
        return tensor
    groups = scale.shape[1]
    return group_words(tensor, groups) if has_words(tensor.shape[1] // groups) else tensor


def rank_files(directory: Path, config: EngineConfig, rank: int) -> dict[str, Path]:
    """The weight files of a rank in an engine's ``llm`` directory, by prefix of their tensors in the module."""
    name = f"rank{rank}.safetensors"
    if not config.llm.cross_attention:
        return {"": directory / name}
    parts = ("encoder", "decoder") if config.encoder else ("decoder",)
    return {f"{part}.": directory / part / name for part in parts}


_MOST_SHOWN = 200
Kind = tuple[str, tuple[int, ...]]

# safetensors' names of dtypes.
_SPELLINGS: Mapping[torch.dtype, str] = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
}


def check_weights(files: Mapping[str, Path], config: EngineConfig) -> None:
    """Check the headers of a rank's files against the tensors that ``config`` requires; reads no weights.

    Args:
        files: Result of :func:`rank_files`.
        config: Config that the packages were compiled for.

    Raises:
        EngineError: A file is missing or truncated, or a tensor is missing or of another dtype or shape.
    """
    stored = {prefix: _stored(path) for prefix, path in files.items()}
    _check_layers(stored, files, config)
    for name, required in expected_tensors(config).items():
        prefix = next(prefix for prefix in files if name.startswith(prefix))
        actual = stored[prefix].get(name.removeprefix(prefix))
        if actual is None or actual != required:
            problem = "is missing" if actual is None else f"is {_describe(actual)}"
            raise EngineError(
                f"`{name}` in `{files[prefix]}` {problem}, but the engine was built for {_describe(required)}",
                code="MM505",
                hint="the engine directory mixes files of two builds; apply its recipe again",
            )


def _check_layers(
    stored: Mapping[str, Mapping[str, Kind]], files: Mapping[str, Path], config: EngineConfig
) -> None:
    """Check that there are at least as many tensors as layers, before building a module with that many layers."""
    tensors, layers = sum(map(len, stored.values())), config.llm.num_hidden_layers
    if layers > tensors:
        raise EngineError(
            f"`{next(iter(files.values()))}` has {tensors} tensors, but the engine was built for {layers} layers",
            code="MM505",
            hint="the engine directory mixes files of two builds; apply its recipe again",
        )


def check_caches(directory: Path, config: EngineConfig) -> None:
    """Check that caches and prompt table of ``config`` have the sizes that the packages were compiled for.

    Allocates nothing.

    Args:
        directory: Directory of the packages.
        config: Config from engine.json.

    Raises:
        EngineError: MM786, a size differs.
    """
    for name, shapes in packages.largest_shapes(config).items():
        check_sizes(directory / f"{name}.pt2", shapes)


def expected_tensors(config: EngineConfig) -> dict[str, Kind]:
    """dtype and shape of every tensor of a rank, by its name in the module.

    Raises:
        EngineError: MM766, no module can be built from ``config``.
    """
    try:
        return {
            name: (_SPELLINGS[tensor.dtype], tuple(tensor.shape))
            for name, tensor in weights_of(config).items()
        }
    except EngineError:
        raise
    except Exception as error:  # modules with contradictory sizes raise various errors
        raise EngineError(
            f"no model can be built from engine.json: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0][:_MOST_SHOWN]}",
            code="MM766",
            hint="restore the engine directory with `mmbuild apply` on its recipe",
        ) from error


def check_memory(config: EngineConfig, device: str) -> None:
    """Check that the caches fit into this machine's memory, before they are allocated.

    Raises:
        EngineError: MM765.
    """
    slots = config.max_seq_len + config.cross_len
    needed = config.sequences * slots * config.kv_bytes_per_token
    if device == "cuda":
        memory = int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise EngineError(
            f"the engine's caches take {size_text(needed)} for {config.sequences:,} sequences of {slots:,} tokens, "
            f"but this machine has {size_text(memory)} of memory",
            code="MM765",
            hint="load it on a machine with more memory, or build with smaller limits",
        )


def _stored(path: Path) -> dict[str, Kind]:
    require_weights(path)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def _describe(kind: Kind) -> str:
    dtype, shape = kind
    return f"{dtype} {list(shape)}"
