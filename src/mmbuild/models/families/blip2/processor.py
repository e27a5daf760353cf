"""Preprocesses BLIP-2's prompts and images.

This follows ``Blip2Processor`` of transformers, but also works for models saved before it supported placeholders: one
placeholder per visual feature, then the text as encoded by the tokenizer (OPT's begins with ``</s>``, T5's ends with
it). The tokenizer is the language model's; image preprocessing is that of the BLIP-2 checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmbuild.models.errors import EngineError
from mmbuild.models.families.blip2 import WHOLE, language_model
from mmbuild.models.families.processor import Processor, Request
from mmbuild.models.families.shared import dummy_tokenizer, hugging_face
from mmbuild.models.families.shared.config_reading import saved_configs


def load(directory: Path) -> Processor:
    """Load the processor from a model's small files in ``directory``.

    Args:
        directory: Their directory, with those of a second source in ``vision/``.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
    """
    config, vision = saved_configs(directory)
    facts = language_model(config).facts(config, vision)
    tokenizer = hugging_face.saved_tokenizer(directory)
    images = hugging_face.saved_image_processor(directory if vision is None else directory / "vision")
    placeholder = facts.image_token_id
    assert placeholder is not None

    def encode(prompt: str | None, pictures: Sequence[Any]) -> Request:
        text = hugging_face.token_ids(tokenizer, prompt or "")
        if len(pictures) > 1 or placeholder in text:
            raise EngineError(
                f"{len(pictures)} pictures are given, and the model looks at one"
                if len(pictures) > 1
                else "the prompt holds an image token, and the model puts the picture in front by itself",
                code="MM518",
                hint="give one picture, and a prompt of text alone",
            )
        if not pictures:
            return Request(tuple(text), torch.empty(0))
        pixels = hugging_face.pixels_of(images, pictures)
        return Request((placeholder,) * facts.visual.num_visual_features + tuple(text), pixels)

    return Processor(tokenizer, encode)


def write_stand_in(config: Mapping[str, Any], out: Path) -> None:
    """Write a byte-level tokenizer, and BLIP-2's image preprocessing if ``config`` is BLIP-2's.

    Args:
        config: Config of a complete model, of its text model, or of its second source.
        out: An existing directory.
    """
    from transformers import BlipImageProcessorPil

    whole = config["model_type"] == WHOLE
    text = config["text_config"] if whole else config
    kind = language_model(config)
    tokenizer = dummy_tokenizer.tokenizer(
        int(text["vocab_size"]), kind.SPECIAL_TOKENS, template=kind.ENCODED, pad="<pad>"
    )
    tokenizer.save_pretrained(out)
    if whole:
        side = int((config.get("vision_config") or {}).get("image_size", 224))
        BlipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(out)
