"""Nougat as transformers runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmbuild.families.shared import hugging_face
from mmbuild.families.shared.hugging_face import tensor_shapes

__all__ = ["load", "tensor_shapes"]


def load(sources: Mapping[str, Path], dtype: torch.dtype, device: str) -> Any:
    """The model in ``sources["model"]``; the end token that mBART's defaults force on the last step is not forced.

    Raises:
        EngineError: MM563, transformers cannot load it.
    """
    model = hugging_face.load_model(sources, dtype, device)
    model.generation_config.forced_eos_token_id = None
    return model
