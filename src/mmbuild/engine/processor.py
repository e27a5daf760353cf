"""Text and images to token ids and pixels, by the model's own processor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.engine.config import EngineError

Image = Any  # PIL.Image.Image, a path, or an array PIL accepts


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, ready for the engine.

    Attributes:
        ids: Token ids; each visual feature of the prompt is one placeholder id.
        pixels: Preprocessed images, float32 [images, channels, height, width].
    """

    ids: tuple[int, ...]
    pixels: Tensor


def load_processor(directory: Path) -> Any:
    """The processor saved in ``directory``; Pillow is enough, torchvision is not needed.

    Raises:
        EngineError: Tokenizer or image processor cannot be read.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(directory, backend="pil", local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EngineError(
            f"the processor in `{directory}` cannot be loaded: {first_line(error)}",
            code="MM516",
            hint="The model needs tokenizer.json, preprocessor_config.json and processor_config.json",
        ) from error


def first_line(error: BaseException, most: int = 200) -> str:
    """What another library said, as a part of our sentence: its first line, not too long, no full stop."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= most else line[: most - 4] + " ..."


def open_image(image: Image) -> Any:
    """A picture as RGB.

    Raises:
        EngineError: The file is missing or no picture.
    """
    from PIL import Image as Pil

    is_file = isinstance(image, (str, os.PathLike))
    try:
        if not is_file:
            return (image if isinstance(image, Pil.Image) else _from_array(image)).convert("RGB")
        with Pil.open(image) as opened:
            return opened.convert("RGB")
    # Pillow's readers raise all of these on damaged files, fromarray on what is no picture.
    except (OSError, ValueError, SyntaxError, TypeError, AttributeError, Pil.DecompressionBombError) as error:
        what = f"the image `{os.fspath(image)}`" if is_file else f"an image of type {type(image).__name__}"
        raise EngineError(
            f"{what} cannot be read: {getattr(error, 'strerror', None) or 'it is no picture Pillow reads'}",
            code="MM517",
            hint="Give a PNG, JPEG, WebP or another format that Pillow opens, or uint8 [height, width, 3]",
        ) from error


def _from_array(array: Any) -> Any:
    """uint8 [H, W] or [H, W, channels] as a picture; Pillow alone would take floats and rows of numbers too."""
    from PIL import Image as Pil

    if str(array.dtype) != "uint8" or array.ndim not in (2, 3):
        raise TypeError(f"{array.dtype} of {array.ndim} dimensions")
    return Pil.fromarray(array)


def encode(processor: Any, prompt: str, images: Sequence[Image]) -> Request:
    """One prompt with its images.

    Raises:
        EngineError: An image cannot be read, or prompt and images do not belong together.
    """
    pictures = [open_image(image) for image in images]
    try:
        batch = processor(text=prompt, images=pictures or None, return_tensors="pt")
    # transformers' processors count image tokens in several ways, and fail in as many.
    except (ValueError, StopIteration, IndexError) as error:
        why = first_line(error) or "the prompt names another number of images"
        raise EngineError(
            f"the prompt and its {len(pictures)} images do not fit: {why}",
            code="MM518",
            hint="Name each image in the prompt with one image token",
        ) from error
    pixels = batch.get("pixel_values")
    return Request(
        ids=tuple(batch["input_ids"][0].tolist()),
        pixels=torch.empty(0) if pixels is None else pixels,
    )
