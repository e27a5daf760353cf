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
            f"the processor in `{directory}` cannot be loaded: {str(error).splitlines()[0]}",
            code="MM516",
            hint="The model needs tokenizer.json, preprocessor_config.json and processor_config.json",
        ) from error


def open_image(image: Image) -> Any:
    """A picture as RGB.

    Raises:
        EngineError: The file is missing or no picture.
    """
    from PIL import Image as Pil
    from PIL import UnidentifiedImageError

    if not isinstance(image, (str, os.PathLike)):
        return image.convert("RGB") if isinstance(image, Pil.Image) else Pil.fromarray(image).convert("RGB")
    try:
        with Pil.open(image) as opened:
            return opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Pil.DecompressionBombError) as error:
        why = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else "it is no picture Pillow reads"
        )
        raise EngineError(
            f"the image `{os.fspath(image)}` cannot be read: {why}",
            code="MM517",
            hint="Give a PNG, JPEG, WebP or another format that Pillow opens",
        ) from error


def encode(processor: Any, prompt: str, images: Sequence[Image]) -> Request:
    """One prompt with its images.

    Raises:
        EngineError: An image cannot be read, or prompt and images do not belong together.
    """
    pictures = [open_image(image) for image in images]
    try:
        batch = processor(text=prompt, images=pictures or None, return_tensors="pt")
    except ValueError as error:
        raise EngineError(
            f"the prompt and its {len(pictures)} images do not fit: {str(error).splitlines()[0]}",
            code="MM518",
            hint="Name each image in the prompt with one image token",
        ) from error
    pixels = batch.get("pixel_values")
    return Request(
        ids=tuple(batch["input_ids"][0].tolist()),
        pixels=torch.empty(0) if pixels is None else pixels,
    )
