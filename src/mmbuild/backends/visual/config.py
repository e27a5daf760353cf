"""What a visual engine is built for, whoever runs it, and what it may be given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
    """``visual.json`` of a visual engine as plain data, its fields checked.

    Raises:
        EngineError: MM501, it is missing or damaged.
    """
    path = directory / CONFIG
    try:
        data = read_object(path, ENGINE_JSON)
    except FileRefusedError as error:
        raise damaged_file_error(path, error.problem) from None
    except OSError as error:
        raise damaged_file_error(path, f"cannot be read: {error.strerror}") from None
    problem = fields.visual_config(data)
    if problem is not None:
        raise damaged_file_error(path, f"is damaged: {problem}")
    return data


def make_config(data: Mapping[str, Any]) -> VisualConfig:
    """The config in the data of :func:`read_description`, whatever else the backend keeps there."""
    known = {field.name: data[field.name] for field in dataclasses.fields(VisualConfig)}
    return VisualConfig(**{**known, "image_size": tuple(data["image_size"])})


def damaged_file_error(path: Path, problem: str) -> EngineError:
    """The error for a file that cannot be used; ``problem`` ends a sentence that begins with its name."""
    return EngineError(
        f"`{path}` {problem}",
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
