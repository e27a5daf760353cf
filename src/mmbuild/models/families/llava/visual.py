"""LLaVA's visual side as one module: CLIP tower up to the selected layer, and projector, all from transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.models.families.llava.visual_weights import canonical
from mmbuild.models.families.shared.towers import built

__all__ = ["LlavaVisual", "canonical", "make"]


class LlavaVisual(nn.Module):
    """Pixels [B, 3, H, W] -> visual features [B, num_visual_features, hidden] of the LLM.

    Runs the tower's layers one by one; there are none after the last selected one (``LlavaModel.get_image_features``
    of transformers runs all layers and keeps every hidden state).
    """

    def __init__(self, shape: Mapping[str, Any], feature_dtype: torch.dtype) -> None:
        """``shape``: result of :func:`.visual_shape.shape`; ``feature_dtype``: dtype of the LLM's prompt table."""
        super().__init__()
        from transformers import AutoModel, CLIPVisionConfig, LlavaConfig
        from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

        tower, projector = built(CLIPVisionConfig, shape["tower"]), shape["projector"]
        config = LlavaConfig(
            vision_config=tower,
            vision_feature_layer=shape["states"],
            text_config={"hidden_size": projector["hidden_size"], "num_attention_heads": 1},
            projector_hidden_act=projector["hidden_act"],
            multimodal_projector_bias=projector["bias"],
        )
        self.vision_tower = AutoModel.from_config(tower)
        self.vision_tower.post_layernorm = nn.Identity()
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.states = shape["states"]
        self.skip = 0 if shape["class_token"] else 1
        self.feature_dtype = feature_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        tower = self.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        states = [hidden]
        for layer in tower.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            states.append(hidden)
        features = torch.cat([states[layer][:, self.skip :] for layer in self.states], dim=-1)
        projected: Tensor = self.multi_modal_projector(features)
        return projected.to(self.feature_dtype)


make = LlavaVisual
