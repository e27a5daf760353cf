"""Runs Nougat with transformers: processor and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.models.families.processor import Request
from mmbuild.models.families.shared import hugging_face
from mmbuild.models.families.shared.hugging_face import load_model as load
from mmbuild.models.families.shared.hugging_face import tensor_shapes
from mmbuild.models.families.transformers_inputs import Inputs

__all__ = ["load", "load_inputs", "tensor_shapes"]


def load_inputs(sources: Mapping[str, Path], model: Any) -> Inputs:
    """Load transformers' processor, and the start token of ``generate``.

    Args:
        sources: Model directories.
        model: Result of :func:`load`.

    Raises:
        EngineError: MM516, the processor cannot be read.
    """
    processor = hugging_face.saved_processor(sources["model"])

    def inputs(question: str | None, pictures: Sequence[Any]) -> Request:  # noqa: ARG001 (takes no text)
        settings = model.generation_config
        start = settings.decoder_start_token_id
        # As `_prepare_special_tokens` of transformers' `generate`.
        start = settings.bos_token_id if start is None else start
        pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return Request((start,), pixels.float())

    return inputs
