"""Describes the files that a family has next to config.json, for consistency checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmbuild.models.files.chat_template import Holder
from mmbuild.models.files.processor_config import Placeholders


@dataclass(frozen=True, slots=True)
class ExpectedFiles:
    """Location of a model's small files, and the numbers in them that repeat config.json.

    Attributes:
        vocab_size: Key in config.json of the number of rows in the embedding table.
        hidden_size: Key in config.json of their width.
        image_size: Key in config.json of the tower's input size.
        image_class: Image processor if no file names one: ``CLIP``, ``Siglip``, ``Blip``, ``Nougat``.
        tokenizer: Subdirectory of the tokenizer; empty for the model's directory.
        images: Source of the image processor, and its subdirectory.
        whole_processor: Whether tokenizer and image processor are loaded as one, by a class that the files may name.
        squaring: How images are made square before the image processor: ``pad`` or ``resize``; None if they are not.
        image_token: Key in config.json of the id of the image token; None if there is no image token.
        adds_image_token: Whether the processor adds that token to a tokenizer without one.
        template: Reader of the chat template; None if there is no template.
        placeholders: How the processor counts placeholders; None if it does not.
        queries: Whether the processor's number of placeholders is ``num_query_tokens``.
        copies: Sections of config.json that repeat the config.json of a directory, by that directory.
    """

    vocab_size: str
    hidden_size: str
    image_size: str
    image_class: str
    tokenizer: str = ""
    images: tuple[Literal["model", "vision"], str] = ("model", "")
    whole_processor: bool = False
    squaring: Literal["pad", "resize"] | None = None
    image_token: str | None = None
    adds_image_token: bool = False
    template: Holder | None = None
    placeholders: Placeholders | None = None
    queries: bool = False
    copies: tuple[tuple[str, str], ...] = ()
