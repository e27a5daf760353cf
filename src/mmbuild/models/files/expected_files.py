"""What a family's model keeps next to config.json, so that files can be compared with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmbuild.models.files.chat_template import Holder
from mmbuild.models.files.processor_config import Placeholders


@dataclass(frozen=True, slots=True)
class ExpectedFiles:
    """Where a model's small files are, and which numbers in them repeat config.json.

    Attributes:
        vocab_size: What config.json calls the rows of the embedding table.
        hidden_size: What config.json calls their width.
        image_size: What config.json calls the tower's input size.
        image_class: Image processor where a file names none: ``CLIP``, ``Siglip``, ``Blip``, ``Nougat``.
        tokenizer: Directory of the tokenizer below the model's own; empty for the model's own.
        images: Source of the image processor, and its directory below.
        square_pictures: Whether pictures are made square before the image processor sees them.
        image_token: What config.json calls the id of the image token; None where no token stands for a picture.
        adds_image_token: Whether the processor adds that token to a tokenizer without one.
        template: Who reads the chat template; None where questions are not put into one.
        placeholders: How the processor counts placeholders; None where it does not.
        queries: Whether the processor's number of placeholders is ``num_query_tokens``.
        copies: Sections of config.json that repeat the config.json of a directory, by that directory.
    """

    vocab_size: str
    hidden_size: str
    image_size: str
    image_class: str
    tokenizer: str = ""
    images: tuple[Literal["model", "vision"], str] = ("model", "")
    square_pictures: bool = False
    image_token: str | None = None
    adds_image_token: bool = False
    template: Holder | None = None
    placeholders: Placeholders | None = None
    queries: bool = False
    copies: tuple[tuple[str, str], ...] = ()
