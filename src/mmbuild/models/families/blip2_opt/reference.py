"""BLIP-2 with its language model as transformers runs them: see
:mod:`mmbuild.models.families.shared.blip2_reference`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmbuild.models.families.blip2_opt import facts as read_facts
from mmbuild.models.families.shared import blip2_reference
from mmbuild.models.families.shared.blip2_reference import load_inputs

__all__ = ["load", "load_inputs", "tensor_shapes"]


def load(sources: Mapping[str, Path], dtype: torch.dtype, device: str) -> Any:
    """The model, whole or in two sources.

    Raises:
        EngineError: MM563, transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM

    return blip2_reference.load(sources, dtype, device, AutoModelForCausalLM, read_facts)


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a source.

    Raises:
        SourceError: MM440, transformers knows no such model.
    """
    from transformers import AutoModelForCausalLM

    return blip2_reference.tensor_shapes(config, AutoModelForCausalLM.from_config)
