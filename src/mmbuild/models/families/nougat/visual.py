"""Nougat's visual side as one module: transformers' Swin tower, and the projection if the widths differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.models.families.nougat.visual_weights import canonical
from mmbuild.models.families.shared.towers import built

__all__ = ["NougatVisual", "canonical", "make"]


class NougatVisual(nn.Module):
    """Pixels [B, 3, H, W] -> features for the decoder's cross-attention, [B, num_visual_features, d_model]."""

    def __init__(self, shape: Mapping[str, Any], feature_dtype: torch.dtype) -> None:
        """``shape``: result of :func:`.visual_shape.shape`; ``feature_dtype``: the decoder's."""
        super().__init__()
        from transformers import DonutSwinConfig, DonutSwinModel

        tower = built(DonutSwinConfig, shape["tower"])
        self.encoder = DonutSwinModel(tower, add_pooling_layer=False)
        width, required = tower.hidden_size, shape["hidden_size"]
        # As VisionEncoderDecoderModel has it: only where the widths differ.
        self.enc_to_dec_proj = nn.Identity() if width == required else nn.Linear(width, required)
        self.feature_dtype = feature_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        hidden = self.encoder(pixels).last_hidden_state
        projected: Tensor = self.enc_to_dec_proj(hidden)
        return projected.to(self.feature_dtype)


make = NougatVisual
