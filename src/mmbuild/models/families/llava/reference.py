"""Runs LLaVA with transformers: processor, chat template and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.models.families.processor import Request
from mmbuild.models.families.shared import hugging_face
from mmbuild.models.families.shared.chat import own_template
from mmbuild.models.families.shared.hugging_face import load_model as load
from mmbuild.models.families.shared.hugging_face import tensor_shapes
from mmbuild.models.families.transformers_inputs import Inputs, encode_chat
from mmbuild.models.files.small_files import read_json

__all__ = ["load", "load_inputs", "tensor_shapes"]

_CLASS_TOKENS = 1  # CLIP puts one in front of the patches


def load_inputs(sources: Mapping[str, Path], model: Any) -> Inputs:
    """Load transformers' processor; fields missing in older files are filled in from the model's config.

    Args:
        sources: Model directories.
        model: Result of :func:`load`.

    Raises:
        EngineError: MM516, the processor cannot be read.
    """
    processor = hugging_face.saved_processor(sources["model"])
    _fill(processor, sources["model"], model.config)

    def inputs(question: str | None, pictures: Sequence[Any]) -> Request:
        return encode_chat(processor, question or "", pictures)

    return inputs


def _fill(processor: Any, directory: Path, config: Any) -> None:
    """Fields that files before transformers 4.45 to 4.48 do not have, and the chat template of before both."""
    stated = _processor_fields(directory)
    for name, value in (
        ("patch_size", config.vision_config.patch_size),
        ("vision_feature_select_strategy", config.vision_feature_select_strategy),
        ("num_additional_image_tokens", _CLASS_TOKENS),
    ):
        if stated.get(name) is None:
            setattr(processor, name, value)
    processor.chat_template = (
        processor.chat_template
        or processor.tokenizer.chat_template
        or own_template("mmbuild.models.families.llava").replace("<image>", processor.image_token)
    )


def _processor_fields(directory: Path) -> Mapping[str, Any]:
    """Content of ``processor_config.json`` in ``directory``; empty if there is no such file."""
    file = directory / "processor_config.json"
    return read_json(file) if file.is_file() else {}
