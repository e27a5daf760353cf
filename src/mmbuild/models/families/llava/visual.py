"""LLaVA's visual side as one module: CLIP tower up to the selected layer, and projector, all from transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.models.families.shared import hugging_face


class LlavaVisual(nn.Module):
    """Pixels [B, 3, H, W] -> visual features [B, num_visual_features, hidden] of the LLM.

    Runs the tower's layers one by one up to the last selected one (``LlavaModel.get_image_features`` of transformers
    runs all layers and keeps every hidden state).
    """

    def __init__(self, config: Any, feature_dtype: torch.dtype) -> None:
        """``config``: a ``transformers.LlavaConfig``; ``feature_dtype``: dtype of the LLM's prompt table."""
        super().__init__()
        from transformers import AutoModel
        from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        count = config.vision_config.num_hidden_layers + 1
        chosen = config.vision_feature_layer
        self.chosen = [layer % count for layer in ([chosen] if isinstance(chosen, int) else chosen)]
        self.skip = 1 if config.vision_feature_select_strategy == "default" else 0
        self.feature_dtype = feature_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        tower = self.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        states = [hidden]
        for layer in tower.encoder.layers[: max(self.chosen)]:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            states.append(hidden)
        features = torch.cat([states[layer][:, self.skip :] for layer in self.chosen], dim=-1)
        projected: Tensor = self.multi_modal_projector(features)
        return projected.to(self.feature_dtype)


def make(sources: Mapping[str, Path], feature_dtype: torch.dtype) -> LlavaVisual:
    """The module for the model in ``sources["model"]``, without its weights."""
    from transformers import AutoConfig

    return LlavaVisual(hugging_face.pretrained(AutoConfig, sources["model"]), feature_dtype)


def canonical(source: str, name: str) -> str | None:  # noqa: ARG001 (one source has it all)
    """A tensor's name, normalized over releases of transformers; None if it is not part of the visual side.

    Hubs have ``vision_tower.vision_model.encoder...`` and ``model.vision_tower.vision_model.encoder...``;
    transformers 5 dropped the ``vision_model`` level from its modules.
    """
    plain = name.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")
    return plain if plain.startswith(("vision_tower.", "multi_modal_projector.")) else None
