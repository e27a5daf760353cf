"""Runs BLIP-2 with transformers, from a complete checkpoint or from a text model and a BLIP-2 checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmbuild.models.families.blip2 import WHOLE, language_model
from mmbuild.models.families.processor import Request
from mmbuild.models.families.shared import hugging_face
from mmbuild.models.families.shared.config_reading import saved_config
from mmbuild.models.families.transformers_inputs import Inputs, request


def _text_model(config: Mapping[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    encoder_decoder = language_model(config).TRAITS.encoder_decoder
    return AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM


def load(sources: Mapping[str, Path], dtype: torch.dtype, device: str) -> Any:
    """Load the model; with two sources, BLIP-2's language model is replaced by the text model.

    Args:
        sources: Directories, ``model`` and perhaps ``vision``.
        dtype: Dtype of the weights. With float16, transformers keeps the Q-Former in float32.
        device: Device of the model.

    Raises:
        EngineError: MM563, transformers cannot load it.
    """
    from transformers import Blip2ForConditionalGeneration

    second = sources.get("vision")
    config = saved_config(sources["model"])
    model = hugging_face.load_quietly(Blip2ForConditionalGeneration, second or sources["model"], dtype)
    if second is not None:
        model.language_model = hugging_face.load_quietly(_text_model(config), sources["model"], dtype)
        model.config.text_config = model.language_model.config
    facts = language_model(config).facts(config, saved_config(second) if second else None)
    # Files of before transformers 4.47 do not say it.
    model.config.image_token_index = facts.image_token_id
    return model.to(device)


def load_inputs(sources: Mapping[str, Path], model: Any) -> Inputs:
    """Load transformers' processor, which puts image tokens before the text; older files do not state how many.

    The processor adds the image token to the tokenizer; its id in prompts is that of the model.

    Args:
        sources: Directories, ``model`` and perhaps ``vision``.
        model: Result of :func:`load`.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
    """
    from transformers import Blip2Processor

    processor = Blip2Processor(
        hugging_face.saved_image_processor(sources.get("vision", sources["model"])),
        hugging_face.saved_tokenizer(sources["model"]),
        num_query_tokens=model.config.num_query_tokens,
    )
    added = processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))

    def inputs(question: str | None, pictures: Sequence[Any]) -> Request:
        found = request(processor(images=list(pictures) or None, text=question or "", return_tensors="pt"))
        ids = (model.config.image_token_index if token == added else token for token in found.ids)
        return Request(tuple(ids), found.pixels)

    return inputs


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a BLIP-2 model, or of its text model alone.

    Raises:
        SourceError: MM440, transformers does not support the model.
    """
    if config.get("model_type") == WHOLE:
        return hugging_face.tensor_shapes(config)
    return hugging_face.shapes_of(_text_model(config).from_config, config)
