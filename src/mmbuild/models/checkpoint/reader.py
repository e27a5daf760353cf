"""Reads a checkpoint: its config, and a rank's tensors as views of the mapped file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import CHECKPOINT_CONFIG
from mmbuild.base.safetensors_header import HeaderProblemError, require_header
from mmbuild.models.checkpoint.config import LAYOUT, PRODUCER, CheckpointConfig, from_json
from mmbuild.models.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def rank_file(rank: int) -> str:
    """Name of a rank's file."""
    return f"rank{rank}.safetensors"


def load_config(checkpoint: Path) -> CheckpointConfig:
    """Read ``config.json`` of a checkpoint written by mmbuild.

    Raises:
        CheckpointError: MM436, it is missing, not JSON, incomplete, or quantized by another producer:
            TensorRT-LLM's quantized checkpoints are permuted for one GPU.
    """
    path = checkpoint / "config.json"
    try:
        content = read_object(path, CHECKPOINT_CONFIG)
        config = from_json(content)
    except (
        OSError,
        FileRefusedError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        raise CheckpointError(
            f"`{path}` is not a checkpoint config: {type(error).__name__} {error}",
            code="MM436",
            hint="build the checkpoint again with `mmbuild apply`",
        ) from error
    marks = (content.get("producer"), content.get("layout"))
    if config.quant_algo is not None and marks != (PRODUCER, LAYOUT):
        raise CheckpointError(
            f"`{path}` is quantized, but not in mmbuild's plain layout",
            code="MM436",
            hint="TensorRT-LLM permutes quantized weights for one GPU; build the checkpoint with mmbuild",
        )
    return config


def open_tensors(checkpoint: Path, rank: int) -> dict[str, Tensor]:
    """A rank's tensors by name, on the CPU: views of the mapped file.

    Raises:
        CheckpointError: MM436, the rank's file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = checkpoint / rank_file(rank)
    try:
        require_header(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, HeaderProblemError, SafetensorError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read: {error}",
            code="MM436",
            hint="run `mmbuild cache verify`, then apply again",
        ) from error
