"""BLIP-2's visual side as one module: tower, Q-Former and projection, all from transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.models.families.shared import hugging_face

_PREFIXES = ("vision_model.", "qformer.", "language_projection.")


class Blip2Visual(nn.Module):
    """Pixels [B, 3, H, W] -> visual features [B, num_query_tokens, hidden] of the language model.

    Like ``Blip2ForConditionalGeneration.get_image_features``, except that the Q-Former runs in the tower's number
    format; transformers keeps it in float32.
    """

    def __init__(self, config: Any, feature_dtype: torch.dtype) -> None:
        """``config``: a ``transformers.Blip2Config``; ``feature_dtype``: dtype of the prompt table."""
        super().__init__()
        from transformers import Blip2QFormerModel, Blip2VisionModel

        query = config.qformer_config.hidden_size
        self.vision_model = Blip2VisionModel._from_config(config.vision_config)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, query))
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config)
        self.language_projection = nn.Linear(query, config.text_config.hidden_size)
        self.feature_dtype = feature_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        patches = self.vision_model(pixels).last_hidden_state
        answers = self.qformer(
            query_embeds=self.query_tokens.expand(pixels.shape[0], -1, -1), encoder_hidden_states=patches
        ).last_hidden_state
        projected: Tensor = self.language_projection(answers)
        return projected.to(self.feature_dtype)


def make(sources: Mapping[str, Path], feature_dtype: torch.dtype) -> Blip2Visual:
    """The module for the second source, or for a complete model; without weights."""
    from transformers import Blip2Config

    config = hugging_face.pretrained(Blip2Config, sources.get("vision", sources["model"]))
    return Blip2Visual(config, feature_dtype)


def canonical(source: str, name: str) -> str | None:  # noqa: ARG001 (only a BLIP-2 checkpoint has such names)
    """The tensor's name; None if it is not part of the visual side."""
    return name if name == "query_tokens" or name.startswith(_PREFIXES) else None
