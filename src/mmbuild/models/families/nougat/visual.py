"""Nougat's visual side as one module: transformers' Swin tower, and the projection if the widths differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.models.families.shared import hugging_face


class NougatVisual(nn.Module):
    """Pixels [B, 3, H, W] -> features for the decoder's cross-attention, [B, num_visual_features, d_model]."""

    def __init__(self, config: Any, feature_dtype: torch.dtype) -> None:
        """``config``: a ``transformers.VisionEncoderDecoderConfig``; ``feature_dtype``: the decoder's."""
        super().__init__()
        from transformers import DonutSwinModel

        self.encoder = DonutSwinModel(config.encoder, add_pooling_layer=False)
        width, required = config.encoder.hidden_size, config.decoder.hidden_size
        # As VisionEncoderDecoderModel has it: only where the widths differ.
        self.enc_to_dec_proj = nn.Identity() if width == required else nn.Linear(width, required)
        self.feature_dtype = feature_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        hidden = self.encoder(pixels).last_hidden_state
        projected: Tensor = self.enc_to_dec_proj(hidden)
        return projected.to(self.feature_dtype)


def make(sources: Mapping[str, Path], feature_dtype: torch.dtype) -> NougatVisual:
    """The module for the model in ``sources["model"]``, without its weights."""
    from transformers import VisionEncoderDecoderConfig

    return NougatVisual(hugging_face.pretrained(VisionEncoderDecoderConfig, sources["model"]), feature_dtype)


def canonical(source: str, name: str) -> str | None:  # noqa: ARG001 (one source has it all)
    """The tensor's name; None if it is not part of the visual side."""
    return name if name.startswith(("encoder.", "enc_to_dec_proj.")) else None
