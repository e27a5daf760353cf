"""VILA's visual side as one module: transformers' tower up to the selected layer, and the projector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmbuild.models.families.shared.towers import built
from mmbuild.models.families.vila import DOWN_SAMPLING
from mmbuild.models.families.vila.layout import Layout
from mmbuild.models.families.vila.visual_weights import canonical

__all__ = ["DownSample", "Projector", "VilaVisual", "canonical", "make", "make_projector", "tower_config"]


class DownSample(nn.Module):
    """Joins 2 x 2 neighbours: [B, side^2, C] -> [B, ceil(side / 2)^2, 4 C].

    Odd sides get a row and a column of zeros. Channels are those of the four neighbours in reading order; the
    result runs down the columns, the second axis first, as ``DownSampleBlock.flat_square`` of VILA leaves it.
    """

    def forward(self, patches: Tensor) -> Tensor:
        """See the class."""
        batch, count, channels = patches.shape
        side = math.isqrt(count)
        half = (side + 1) // 2
        grid = patches.reshape(batch, side, side, channels)
        grid = functional.pad(grid, (0, 0, 0, 2 * half - side, 0, 2 * half - side))
        blocks = grid.reshape(batch, half, 2, half, 2, channels)
        return blocks.permute(0, 3, 1, 2, 4, 5).reshape(batch, half * half, 4 * channels)


class Projector(nn.Module):
    """[B, patches, tower] -> [B, features, hidden], with the parameter names of VILA's ``MultimodalProjector``."""

    def __init__(self, kind: str, tower: int, hidden: int) -> None:
        """``kind``: ``mm_projector_type``; ``tower``, ``hidden``: widths of tower and decoder."""
        super().__init__()
        if kind == "linear":
            self.layers: nn.Module = nn.Linear(tower, hidden)
        elif kind == DOWN_SAMPLING:
            joined = 4 * tower
            norm, first = nn.LayerNorm(joined), nn.Linear(joined, hidden)
            self.layers = nn.Sequential(DownSample(), norm, first, nn.GELU(), nn.Linear(hidden, hidden))
        else:
            depth = int(kind.removeprefix("mlp").partition("x")[0])
            more = [layer for _ in range(depth - 1) for layer in (nn.GELU(), nn.Linear(hidden, hidden))]
            self.layers = nn.Sequential(nn.Linear(tower, hidden), *more)

    def forward(self, patches: Tensor) -> Tensor:
        """See the class."""
        projected: Tensor = self.layers(patches)
        return projected


class VilaVisual(nn.Module):
    """Pixels [B, 3, H, W] -> visual features [B, num_visual_features, hidden] of the decoder."""

    def __init__(self, shape: Mapping[str, Any], feature_dtype: torch.dtype) -> None:
        """``shape``: result of :func:`.visual_shape.shape`; ``feature_dtype``: dtype of the prompt table."""
        super().__init__()
        tower, projector = shape["tower"], shape["projector"]
        self.vision_tower = _tower(tower)
        self.mm_projector = Projector(projector["kind"], tower["hidden_size"], projector["hidden_size"])
        self.skip = 0 if shape["first_token"] else 1
        self.feature_dtype = feature_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        tower = self.vision_tower
        hidden = tower.embeddings(pixels)
        if hasattr(tower, "pre_layrnorm"):  # CLIP's own spelling; SigLIP has none
            hidden = tower.pre_layrnorm(hidden)
        for layer in tower.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        projected: Tensor = self.mm_projector(hidden[:, self.skip :])
        return projected.to(self.feature_dtype)


def tower_config(read: Layout) -> Any:
    """transformers' config of the tower."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[read.tower["model_type"]].from_dict(dict(read.tower))


def _tower(shape: Mapping[str, Any]) -> Any:
    """The tower without its last norm and its head."""
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tower = AutoModel.from_config(built(CONFIG_MAPPING[shape["model_type"]], shape))
    tower.post_layernorm = nn.Identity()
    if hasattr(tower, "head"):
        tower.head = nn.Identity()
    return tower


def make_projector(read: Layout) -> Projector:
    """The projector, without its weights."""
    return Projector(read.projector, int(read.tower["hidden_size"]), int(read.text["hidden_size"]))


make = VilaVisual
