"""Text and images to token ids and pixels: what every family's processor gives and takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmbuild.engine.config import EngineError

if TYPE_CHECKING:
    from mmbuild.engine.repetition import Repetition

Image = Any  # PIL.Image.Image, a path, or an array PIL accepts


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, ready for the engine.

    Attributes:
        ids: Token ids; each visual feature of the prompt is one placeholder id.
        pixels: Preprocessed images, float32 [images, channels, height, width]; empty without images.
    """

    ids: tuple[int, ...]
    pixels: Tensor


Encode = Callable[[str | None, Sequence[Any]], Request]


@dataclass(frozen=True, slots=True)
class Processor:
    """How a family's questions are put and its answers read.

    Attributes:
        tokenizer: transformers' tokenizer.
        encode: A plain question (None where the family takes none) and its RGB pictures to a request.
        takes_text: Whether a question is asked at all.
        suppressed_token_ids: Ids that are never an answer.
        repetition: When an answer is taken to go round in circles; None: never.
    """

    tokenizer: Any
    encode: Encode
    takes_text: bool = True
    suppressed_token_ids: tuple[int, ...] = ()
    repetition: Repetition | None = None


def load_processor(directory: Path, family: str) -> Processor:
    """The processor that ``family`` makes of the files in ``directory``.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
    """
    from mmbuild.families import part

    loaded: Processor = part(family, "processor").load(directory)
    return loaded


def encode(processor: Processor, prompt: str | None, images: Sequence[Image]) -> Request:
    """One prompt with its images.

    Raises:
        EngineError: An image cannot be read, or prompt and images do not belong together.
    """
    if processor.takes_text and prompt is None:
        raise EngineError("the model needs a question", code="MM518", hint="Give one with --prompt")
    if not processor.takes_text and prompt is not None:
        raise EngineError(
            "the model reads pictures and takes no question", code="MM518", hint="Leave the prompt out"
        )
    return processor.encode(prompt, [open_image(image) for image in images])


def first_line(error: BaseException | str, most: int = 200) -> str:
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
