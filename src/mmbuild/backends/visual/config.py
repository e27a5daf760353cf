"""Configuration of visual engines of all backends, and checks of their input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbuild.backends.engine_dir import fields
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import ENGINE_JSON
from mmbuild.models.errors import EngineError

CONFIG = "visual.json"


@dataclass(frozen=True, slots=True)
class VisualConfig:
    """What a visual engine is built for.

    Attributes:
        dtype: Dtype of tower and projector.
        feature_dtype: Dtype of the returned features, which is the LLM's.
        max_batch_size: Maximum number of images.
        num_visual_features: Rows per image.
        image_size: Height and width, pixels.
    """

    dtype: str
    feature_dtype: str
    max_batch_size: int
    num_visual_features: int
    image_size: tuple[int, int]


def read_description(directory: Path) -> dict[str, Any]:
    """Read and validate ``visual.json`` of a visual engine; returns plain data.

    Raises:
        EngineError: MM501, it is missing or damaged.
    """
    return read_checked(directory / CONFIG, fields.visual_config)


def read_checked(path: Path, problem_of: Callable[[dict[str, Any]], str | None]) -> dict[str, Any]:
    """Read a JSON file of a visual engine; ``problem_of`` says what is wrong with its content, or None.

    Raises:
        EngineError: MM501, it is missing or damaged.
    """
    try:
        data: dict[str, Any] = read_object(path, ENGINE_JSON)
    except FileRefusedError as error:
        raise damaged_file_error(path, error.problem) from None
    except OSError as error:
        raise damaged_file_error(path, f"cannot be read: {error.strerror}") from None
    problem = problem_of(data)
    if problem is not None:
        raise damaged_file_error(path, f"is damaged: {problem}")
    return data


def make_config(data: Mapping[str, Any]) -> VisualConfig:
    """The config in the result of :func:`read_description`; ignores other fields of the backend."""
    known = {field.name: data[field.name] for field in dataclasses.fields(VisualConfig)}
    return VisualConfig(**{**known, "image_size": tuple(data["image_size"])})


def damaged_file_error(path: Path, problem: str) -> EngineError:
    """The error for an unusable file; ``problem`` completes a sentence that starts with its name."""
    return EngineError(
        f"`{path}` {problem}",
        code="MM501",
        hint="restore the engine directory with `mmbuild apply` on its recipe",
    )


def check_features(count: int, config: VisualConfig) -> None:
    """Check that the tower returns the planned number of features per image.

    Raises:
        EngineError: MM533.
    """
    if count != config.num_visual_features:
        raise EngineError(
            f"the visual tower returns {count} features per image, but config.json implies "
            f"{config.num_visual_features}",
            code="MM533",
        )


def check_pixels(pixels: Tensor, config: VisualConfig) -> None:
    """Check that a visual engine supports ``pixels``, float [images, 3, H, W].

    Raises:
        EngineError: MM534, too many images; MM535, wrong image size.
    """
    if not 1 <= pixels.shape[0] <= config.max_batch_size:
        raise EngineError(
            f"{pixels.shape[0]} images are given, but the visual engine supports 1 to {config.max_batch_size}",
            code="MM534",
            hint="use smaller batches, or raise max_batch_size in the recipe",
        )
    if tuple(pixels.shape[1:]) != (3, *config.image_size):
        raise EngineError(
            f"the processor returned images of {list(pixels.shape[1:])}, but the visual engine expects "
            f"{[3, *config.image_size]}",
            code="MM535",
            hint="preprocessor_config.json and config.json are of different models",
        )
