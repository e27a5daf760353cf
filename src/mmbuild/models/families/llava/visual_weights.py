"""The weights of LLaVA's visual side: their names in files, and their shapes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.models.families.shared.tower_weights import Shapes, below, linear, tower_weights


def tensors(shape: Mapping[str, Any]) -> Shapes:
    """Shapes by common name, from the result of :func:`.visual_shape.shape`."""
    projector, tower = shape["projector"], shape["tower"]
    hidden, width = projector["hidden_size"], tower["hidden_size"] * len(shape["states"])
    return {
        **below("vision_tower.", tower_weights(tower)),
        **linear("multi_modal_projector.linear_1", hidden, width, bias=projector["bias"]),
        **linear("multi_modal_projector.linear_2", hidden, hidden, bias=projector["bias"]),
    }


def canonical(source: str, name: str) -> str | None:  # noqa: ARG001 (one source has it all)
    """A tensor's name, normalized over releases of transformers; None if it is not part of the visual side.

    Hubs have ``vision_tower.vision_model.encoder...`` and ``model.vision_tower.vision_model.encoder...``;
    transformers 5 dropped the ``vision_model`` level from its modules.
    """
    plain = name.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")
    return plain if plain.startswith(("vision_tower.", "multi_modal_projector.")) else None
