"""What a visual engine is built for, whoever runs it, and what it may be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import ENGINE_JSON
from mmbuild.engine.config import DTYPES, EngineError

CONFIG = "visual.json"


@dataclass(frozen=True, slots=True)
class VisualConfig:
    """What a visual engine is built for.

    Attributes:
        dtype: Of tower and projector.
        feature_dtype: Of the features it returns, the LLM's dtype.
        max_batch_size: Images at once.
        num_visual_features: Rows per image.
        image_size: Height and width, pixels.
    """

    dtype: str
    feature_dtype: str
    max_batch_size: int
    num_visual_features: int
    image_size: tuple[int, int]


def read_description(directory: Path) -> dict[str, Any]:
    """``visual.json`` of a visual engine as plain data.

    Raises:
        EngineError: It is missing or damaged.
    """
    path = directory / CONFIG
    try:
        return read_object(path, ENGINE_JSON)
    except (OSError, FileRefusedError) as error:
        raise damaged(path, error) from error


def make_config(directory: Path, data: Mapping[str, Any]) -> VisualConfig:
    """The config in ``visual.json``'s data, which has nothing else.

    Raises:
        EngineError: It is of another version, or states what no engine has.
    """
    try:
        config = VisualConfig(**{**data, "image_size": tuple(data["image_size"])})
        for name, right in _RIGHT.items():
            if not right(getattr(config, name)):
                raise ValueError(f"`{name}` is {str(getattr(config, name))[:80]}")
    except (TypeError, KeyError, ValueError) as error:
        raise damaged(directory / CONFIG, error) from error
    return config


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= _MOST


def _is_dtype(value: object) -> bool:
    return isinstance(value, str) and value in DTYPES


_MOST = 1_000_000  # as in recipes
_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "dtype": _is_dtype,
    "feature_dtype": _is_dtype,
    "max_batch_size": _is_count,
    "num_visual_features": _is_count,
    "image_size": lambda value: len(value) == 2 and all(map(_is_count, value)),
}


def damaged(path: Path, error: Exception) -> EngineError:
    """What is told of a file that cannot be understood."""
    return EngineError(
        f"`{path}` cannot be read: {type(error).__name__}: {error}",
        code="MM501",
        hint="Restore the engine directory with `mmbuild apply` on its recipe",
    )


def check_features(count: int, config: VisualConfig) -> None:
    """Refuse a tower that gives ``count`` features per image where another number was planned.

    Raises:
        EngineError: MM533.
    """
    if count != config.num_visual_features:
        raise EngineError(
            f"the visual tower gives {count} features per image, and config.json makes it "
            f"{config.num_visual_features}",
            code="MM533",
        )


def check_pixels(pixels: Tensor, config: VisualConfig) -> None:
    """Refuse what a visual engine cannot take; ``pixels``: float [images, 3, H, W].

    Raises:
        EngineError: Too many images, or of another size.
    """
    if not 1 <= pixels.shape[0] <= config.max_batch_size:
        raise EngineError(
            f"{pixels.shape[0]} images are given, and the visual engine takes 1 to {config.max_batch_size}",
            code="MM534",
            hint="Ask in smaller batches, or raise max_batch_size in the recipe",
        )
    if tuple(pixels.shape[1:]) != (3, *config.image_size):
        raise EngineError(
            f"the processor made pictures of {list(pixels.shape[1:])}, and the visual engine takes "
            f"{[3, *config.image_size]}",
            code="MM535",
            hint="preprocessor_config.json and config.json are of different models",
        )
