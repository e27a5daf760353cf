"""The weights of Nougat's visual side: their names in files, and their shapes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.models.families.shared.tower_weights import Shapes, below, linear, tower_weights


def tensors(shape: Mapping[str, Any]) -> Shapes:
    """Shapes by common name, from the result of :func:`.visual_shape.shape`."""
    tower, required = shape["tower"], shape["hidden_size"]
    width = tower["embed_dim"] * 2 ** (len(tower["depths"]) - 1)
    return {
        **below("encoder.", tower_weights(tower)),
        **({} if width == required else linear("enc_to_dec_proj", required, width)),
    }


def canonical(source: str, name: str) -> str | None:  # noqa: ARG001 (one source has it all)
    """The tensor's name; None if it is not part of the visual side."""
    return name if name.startswith(("encoder.", "enc_to_dec_proj.")) else None
