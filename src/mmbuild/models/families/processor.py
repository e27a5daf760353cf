"""Common interface of the families' processors, which convert text and images to token ids and pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmbuild.models.errors import EngineError
from mmbuild.models.families.questions import require_question
from mmbuild.models.families.turns import Turn
from mmbuild.models.images import Picture, open_picture

if TYPE_CHECKING:
    from mmbuild.models.repetition_detector import Repetition

Image = Any  # anything that `open_picture` takes


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, ready for the engine.

    Attributes:
        ids: Token ids, with one placeholder id per visual feature.
        pixels: Preprocessed images, float32 [images, channels, height, width]; empty without images.
        conversions: Descriptions of conversions to 8-bit RGB, one per converted image.
    """

    ids: tuple[int, ...]
    pixels: Tensor
    conversions: tuple[str, ...] = ()


Encode = Callable[[str | None, Sequence[Any]], Request]
EncodeChat = Callable[[Sequence[Turn], Sequence[Any]], Request]


@dataclass(frozen=True, slots=True)
class Processor:
    """Encodes the questions of a family and decodes its answers.

    Attributes:
        tokenizer: transformers' tokenizer.
        encode: Converts a plain question (None if the family takes no text) and its RGB images to a request.
        complete: Converts a complete prompt, to which no template is applied, and its RGB images; None: ``encode``
            applies none.
        encode_chat: Converts a conversation and its RGB images in order; None if the family has no chat template.
        takes_text: Whether the family takes a question.
        suppressed_token_ids: Ids that are never generated.
        repetition: Detection of repetition loops; None: off.
    """

    tokenizer: Any
    encode: Encode
    complete: Encode | None = None
    encode_chat: EncodeChat | None = None
    takes_text: bool = True
    suppressed_token_ids: tuple[int, ...] = ()
    repetition: Repetition | None = None


def load_processor(directory: Path, family: str) -> Processor:
    """Load the processor of ``family`` from the files in ``directory``.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
    """
    from mmbuild.models.families import part

    loaded: Processor = part(family, "processor").load(directory)
    return loaded


def encode(processor: Processor, prompt: str | None, images: Sequence[Image]) -> Request:
    """Encode one prompt with its images.

    Args:
        processor: The family's processor.
        prompt: A question, or a complete prompt with image tokens; None if the model takes no text.
        images: Anything that :func:`mmbuild.models.images.open_picture` takes.

    Raises:
        EngineError: MM517, an image cannot be read; MM518, prompt and images do not match.
    """
    require_question(prompt, takes_text=processor.takes_text)
    return _with_pictures(images, lambda pictures: processor.encode(prompt, pictures))


def encode_chat(processor: Processor, turns: Sequence[Turn], images: Sequence[Image]) -> Request:
    """Encode a conversation with its images, which are those of the turns in order.

    A family without a chat template takes one turn of the user, a family without text only its pictures.

    Args:
        processor: The family's processor.
        turns: The conversation, which ends with a turn of the user.
        images: Anything that :func:`mmbuild.models.images.open_picture` takes.

    Raises:
        EngineError: MM517, an image cannot be read; MM518, the family cannot have this conversation.
    """
    turned = processor.encode_chat
    if turned is not None:
        return _with_pictures(images, lambda pictures: turned(turns, pictures))
    if len(turns) != 1 or turns[0].role != "user":
        raise EngineError(
            "the model has no chat template and answers a single message of the user",
            code="MM518",
            hint="send one message with role `user`",
        )
    text = "".join(part for part in turns[0].parts if part is not None)
    # A page of Nougat may come with an instruction, which it cannot follow.
    return encode(processor, text if processor.takes_text else None, images)


def encode_complete(processor: Processor, prompt: str, images: Sequence[Image]) -> Request:
    """Encode a complete prompt with its images, one image token in the prompt for each; raises as :func:`encode`."""
    complete = processor.complete
    if complete is None:
        return encode(processor, prompt, images)
    return _with_pictures(images, lambda pictures: complete(prompt, pictures))


def _with_pictures(images: Sequence[Image], make: Callable[[Sequence[Any]], Request]) -> Request:
    pictures = [open_picture(image) for image in images]
    request = make([picture.image for picture in pictures])
    conversions = tuple(
        f"{_name(picture)}: {picture.conversion}" for picture in pictures if picture.conversion
    )
    return replace(request, conversions=conversions)


def _name(picture: Picture) -> str:
    return "an image" if picture.path is None else f"`{picture.path}`"


def first_line(error: BaseException | str, most: int = 200) -> str:
    """The first line of another library's message, shortened and without a full stop, for use in a message."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= most else line[: most - 4] + " ..."
