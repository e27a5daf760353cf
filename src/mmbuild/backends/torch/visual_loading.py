"""Loads the visual engines of all backends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mmbuild.backends.visual.config import VisualConfig, read_description


class VisualEngine(Protocol):
    """Common interface of the visual engines of all backends."""

    @property
    def config(self) -> VisualConfig:
        """Configuration of the engine."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """float [images, 3, H, W], images up to max_batch_size -> [images, num_visual_features, hidden]."""
        ...

    def prepare(self) -> None:
        """Do now what the first calls would wait for."""
        ...


def load_visual(directory: Path, target: Mapping[str, Any]) -> VisualEngine:
    """Load the visual engine in ``directory``; check the target first
    (:func:`mmbuild.backends.torch.aot_package.check_target`).

    Raises:
        EngineError: A file is missing or damaged.
        TensorRTError: TensorRT is not available, or rejects the engine.
    """
    if read_description(directory).get("backend") == "tensorrt":
        from mmbuild.backends.tensorrt import engine as tensorrt_engine

        return tensorrt_engine.VisualEngine(directory, target)
    from mmbuild.backends.torch import visual_engine

    return visual_engine.VisualEngine(directory, target)
