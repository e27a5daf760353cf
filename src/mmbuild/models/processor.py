"""Text and images to token ids and pixels: what every family's processor gives and takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmbuild.models.errors import EngineError
from mmbuild.models.images import Picture, open_picture

if TYPE_CHECKING:
    from mmbuild.models.repetition_detector import Repetition

Image = Any  # whatever `open_picture` takes


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, ready for the engine.

    Attributes:
        ids: Token ids; each visual feature of the prompt is one placeholder id.
        pixels: Preprocessed images, float32 [images, channels, height, width]; empty without images.
        conversions: How the values of a picture were converted to 8-bit RGB, one text for each picture that was.
    """

    ids: tuple[int, ...]
    pixels: Tensor
    conversions: tuple[str, ...] = ()


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
    from mmbuild.models.families import part

    loaded: Processor = part(family, "processor").load(directory)
    return loaded


def encode(processor: Processor, prompt: str | None, images: Sequence[Image]) -> Request:
    """One prompt with its images.

    Args:
        processor: The family's.
        prompt: A question, or a complete prompt that names its images; None where the model takes none.
        images: Whatever :func:`mmbuild.models.images.open_picture` takes.

    Raises:
        EngineError: MM517, an image cannot be read; MM518, prompt and images do not belong together.
    """
    if processor.takes_text and prompt is None:
        raise EngineError("the model needs a question", code="MM518", hint="Give one with --prompt")
    if not processor.takes_text and prompt is not None:
        raise EngineError(
            "the model reads pictures and takes no question", code="MM518", hint="Leave the prompt out"
        )
    pictures = [open_picture(image) for image in images]
    request = processor.encode(prompt, [picture.image for picture in pictures])
    conversions = tuple(
        f"{_name(picture)}: {picture.conversion}" for picture in pictures if picture.conversion
    )
    return replace(request, conversions=conversions)


def _name(picture: Picture) -> str:
    return "an image" if picture.path is None else f"`{picture.path}`"


def first_line(error: BaseException | str, most: int = 200) -> str:
    """What another library said, as a part of our sentence: its first line, not too long, no full stop."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= most else line[: most - 4] + " ..."
