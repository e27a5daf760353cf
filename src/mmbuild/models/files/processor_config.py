"""Checks a model's processor files: image size for the tower, and number of placeholders.

Reads ``preprocessor_config.json``, or ``image_processor`` in ``processor_config.json``, which takes precedence, with
the keys and class defaults of transformers (4.26 to 5.17).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files import processor_values
from mmbuild.models.files.image_processor_classes import (
    PAGES,
    Size,
    fixed_size,
    image_class,
    output_size,
    sides,
    whole_pixels,
)
from mmbuild.models.files.small_files import display, read_json

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """A saved image processor.

    Attributes:
        settings: Its keys.
        file: The file that contains them.
    """

    settings: Mapping[str, Any]
    file: Path


def read_image_processor(directory: Path) -> ImageProcessor | None:
    """The image processor in ``directory``; None if there is none.

    Raises:
        SmallFileError: MM731, a file is damaged.
    """
    file = directory / PROCESSOR
    if file.is_file():
        nested = read_json(file).get("image_processor")
        if isinstance(nested, dict):
            return ImageProcessor(nested, file)
    file = directory / PREPROCESSOR
    return ImageProcessor(read_json(file), file) if file.is_file() else None


# Settings that affect pixels, besides the size.
_PIXELS = (
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_center_crop",
    "do_pad",
)
_SIZES = ("size", "crop_size")


_HINT = "copy the value from the original model, or remove the key"


def require_usable(found: ImageProcessor, default: str) -> None:
    """Check for settings with which transformers' image processors fail on every image.

    Args:
        found: The image processor.
        default: Its class if the file names none, as for :func:`require_image_size`.

    Raises:
        ModelFilesError: MM744, the class is unknown, or a setting that is needed is null or cannot be used.
    """
    for key, problem in processor_values.class_problems(found.settings):
        _refuse(found, key, problem)
    kind = image_class(found.settings, default)
    if kind is None:
        return  # another class of transformers
    for key, problem in processor_values.problems(
        found.settings, crops=kind.crop is not None, pages=kind is PAGES
    ):
        _refuse(found, key, problem)


def require_squaring(found: ImageProcessor, default: str, way: str) -> None:
    """Check what a family needs to make images square before the image processor.

    Args:
        found: The image processor.
        default: Its class if the file names none, as for :func:`require_image_size`.
        way: ``pad`` fills up with ``image_mean``; ``resize`` takes height and width from ``crop_size``, or ``size``.

    Raises:
        ModelFilesError: MM744, the setting has another form.
    """
    settings, kind = found.settings, image_class(found.settings, default)
    if kind is None:
        return  # another class of transformers
    if way == "pad" and "image_mean" in settings:
        mean = settings["image_mean"]
        problem = "null is none" if mean is None else processor_values.unusable("image_mean", mean)
        if problem is not None:
            _refuse(found, "image_mean", f"images are padded with this colour, and {problem}")
    if way == "resize":
        key = "size" if settings.get("crop_size", kind.crop) is None else "crop_size"
        defaults = {"size": kind.size, "crop_size": {"height": kind.crop, "width": kind.crop}}
        stated = sides(settings[key], key == "crop_size" or kind.square) if key in settings else defaults[key]
        if fixed_size(whole_pixels(stated or {})) is None:
            _refuse(found, key, "images are resized to its height and width, and it has none")


def _refuse(found: ImageProcessor, key: str, problem: str) -> None:
    raise ModelFilesError(
        f"`{key}` in `{display(found.file)}` is {json.dumps(found.settings.get(key))}: {problem}",
        code="MM744",
        hint=_HINT,
    )


def require_one_image_processor(directory: Path, default: str) -> None:
    """Check that a directory has one image processor, or two that agree, because programs read one or the other.

    Args:
        directory: Directory of the files.
        default: Class if a file names none, as for :func:`require_image_size`.

    Raises:
        ModelFilesError: MM743, they state different values of a setting that affects pixels; MM402, a processor is
            there, and no image processor.
        SmallFileError: MM731, a file is damaged.
    """
    chosen, other = read_image_processor(directory), directory / PREPROCESSOR
    if chosen is None and (directory / PROCESSOR).is_file():
        raise ModelFilesError(
            f"`{display(directory / PROCESSOR)}` has no `image_processor`, and there is no `{PREPROCESSOR}`",
            code="MM402",
            hint=f"download `{PREPROCESSOR}` too: pictures cannot be prepared without it",
        )
    if chosen is None or chosen.file == other or not other.is_file():
        return
    second = read_json(other)
    kind = image_class(chosen.settings, default)
    square = kind is None or kind.square
    for key in (*_PIXELS, *_SIZES):
        if key in chosen.settings and key in second:
            ours, theirs = chosen.settings[key], second[key]
            if key in _SIZES:
                ours, theirs = (sides(value, square or key == "crop_size") for value in (ours, theirs))
            if _differ(key, ours, theirs):
                raise ModelFilesError(
                    f"`{key}` is {json.dumps(chosen.settings[key])} in `{display(chosen.file)}` and "
                    f"{json.dumps(second[key])} in "
                    f"`{display(other)}`",
                    code="MM743",
                    hint="remove the file that is not the model's: transformers reads the first, older programs the "
                    "second",
                )


def _differ(key: str, ours: Any, theirs: Any) -> bool:
    """Whether two values of a setting give different pixels: null means off, and numbers may be rounded."""
    if key.startswith("do_"):
        return bool(ours) != bool(theirs)
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return any(_differ("", left, right) for left, right in zip(ours, theirs, strict=True))
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return not math.isclose(ours, theirs, rel_tol=1e-6)
    return bool(ours != theirs)


def read_processor(directory: Path) -> Mapping[str, Any]:
    """Keys of the processor that are not null; empty if there is none.

    Raises:
        SmallFileError: MM731, the file is damaged.
    """
    file = directory / PROCESSOR
    content = read_json(file) if file.is_file() else {}
    return {key: value for key, value in content.items() if value is not None}


def image_token(directory: Path, default: str) -> str:
    """The text for an image in prompts that a LLaVA's processor names; ``default`` if it names none.

    Raises:
        ModelFilesError: MM744, it is not text, with which transformers cannot load the processor.
        SmallFileError: MM731, the file is damaged.
    """
    file = directory / PROCESSOR
    stated = read_json(file).get("image_token", default) if file.is_file() else default
    if not isinstance(stated, str):
        raise ModelFilesError(
            f"`image_token` in `{display(file)}` is {json.dumps(stated)[:80]}: transformers takes only a text",
            code="MM744",
            hint=f"remove the key: the default is `{default}`",
        )
    return stated


def require_image_size(
    found: ImageProcessor, default: str, tower: Size, key: str, *, square: bool = False
) -> None:
    """Check that the image processor's output has the tower's input size.

    Args:
        found: The image processor.
        default: Its class if the file names none: ``CLIP``, ``Siglip``, ``Blip``, ``Nougat``.
        tower: Height and width in pixels from config.json.
        key: Their key in config.json.
        square: Whether images are square before the image processor.

    Raises:
        ModelFilesError: MM739, the sizes differ, or images keep their original sizes.
    """
    kind = image_class(found.settings, default)
    if kind is None:
        return  # unknown class
    result = output_size(found.settings, kind, square=square)
    if result == tower:
        return
    gives = (
        f"pictures different sizes ({result})"
        if isinstance(result, str)
        else f"{result[0]} x {result[1]} pixels"
    )
    raise ModelFilesError(
        f"`{display(found.file)}` gives {gives}, and the tower takes {tower[0]} x {tower[1]} "
        f"(`{key}` in config.json)",
        code="MM739",
        hint="take the image processor and config.json from the same version of the model",
    )


@dataclass(frozen=True, slots=True)
class Placeholders:
    """How LLaVA's processor counts the placeholders of an image; absent keys are filled in from config.json.

    Attributes:
        side: Height and width of the image, pixels.
        patch: ``patch_size`` of the tower.
        strategy: ``vision_feature_select_strategy`` of the model.
        additional: Number of tokens that the tower adds before the patches.
    """

    side: Size
    patch: int
    strategy: str
    additional: int


_COUNTED = ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy")


def require_placeholders(
    processor: Mapping[str, Any], file: Path, counted: Placeholders, features: int
) -> None:
    """Check that ``LlavaProcessor`` writes as many placeholders for an image as the tower has features.

    Args:
        processor: :func:`read_processor`.
        file: Its file.
        counted: Values of absent keys.
        features: Visual features of an image, ``num_visual_features``.

    Raises:
        ModelFilesError: MM740, the numbers differ.
    """
    stated = {key: processor[key] for key in _COUNTED if key in processor}
    patch = stated.get("patch_size", counted.patch)
    additional = stated.get("num_additional_image_tokens", counted.additional)
    strategy = stated.get("vision_feature_select_strategy", counted.strategy)
    whole = isinstance(patch, int) and isinstance(additional, int) and patch > 0
    count = None
    if whole:
        count = (counted.side[0] // patch) * (counted.side[1] // patch) + additional - (strategy == "default")
    if count != features:
        _refuse_count(file, stated, "no number of" if count is None else str(count), features)


def require_queries(processor: Mapping[str, Any], file: Path, features: int) -> None:
    """Check that ``num_query_tokens`` of a BLIP-2 processor, if stated, matches the Q-Former's.

    Raises:
        ModelFilesError: MM740, the numbers differ.
    """
    stated = processor.get("num_query_tokens", features)
    if stated != features:
        _refuse_count(file, {"num_query_tokens": stated}, str(stated), features)


def _refuse_count(file: Path, stated: Mapping[str, Any], count: str, features: int) -> None:
    keys = " and ".join(f"`{key}` {value}" for key, value in stated.items())
    raise ModelFilesError(
        f"`{display(file)}` has {keys}, which gives {count} placeholders for a picture, and the tower gives "
        f"{features} features",
        code="MM740",
        hint="correct the keys to match the tower, or remove them: they are then derived from config.json",
    )
