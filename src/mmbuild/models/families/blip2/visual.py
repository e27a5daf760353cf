"""BLIP-2's visual side as one module: tower, Q-Former and projection, all from transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.models.families.blip2.visual_weights import canonical
from mmbuild.models.families.shared.towers import built

__all__ = ["Blip2Visual", "canonical", "make"]


class Blip2Visual(nn.Module):
    """Pixels [B, 3, H, W] -> visual features [B, num_query_tokens, hidden] of the language model.

    Like ``Blip2ForConditionalGeneration.get_image_features``, except that the Q-Former runs in the tower's number
    format; transformers keeps it in float32.
    """

    def __init__(self, shape: Mapping[str, Any], feature_dtype: torch.dtype) -> None:
        """``shape``: result of :func:`.visual_shape.shape`; ``feature_dtype``: dtype of the prompt table."""
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

        query = shape["qformer"]["hidden_size"]
        self.vision_model = Blip2VisionModel._from_config(built(Blip2VisionConfig, shape["tower"]))
        self.query_tokens = nn.Parameter(torch.zeros(1, shape["num_query_tokens"], query))
        self.qformer = Blip2QFormerModel._from_config(built(Blip2QFormerConfig, shape["qformer"]))
        self.language_projection = nn.Linear(query, shape["hidden_size"])
        self.feature_dtype = feature_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        patches = self.vision_model(pixels).last_hidden_state
        answers = self.qformer(
            query_embeds=self.query_tokens.expand(pixels.shape[0], -1, -1), encoder_hidden_states=patches
        ).last_hidden_state
        projected: Tensor = self.language_projection(answers)
        return projected.to(self.feature_dtype)


make = Blip2Visual
