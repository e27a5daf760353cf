"""The weights of VILA's visual side: their names in files, and their shapes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.models.families.shared.tower_weights import Shapes, below, linear, norm, tower_weights
from mmbuild.models.families.vila import DOWN_SAMPLING


def tensors(shape: Mapping[str, Any]) -> Shapes:
    """Shapes by common name, from the result of :func:`.visual_shape.shape`."""
    tower, projector = shape["tower"], shape["projector"]
    layers = _projector(projector["kind"], tower["hidden_size"], projector["hidden_size"])
    return {**below("vision_tower.", tower_weights(tower)), **below("mm_projector.", layers)}


def _projector(kind: str, tower: int, hidden: int) -> Shapes:
    """As ``Projector`` of :mod:`.visual` numbers its layers, activations included."""
    if kind == "linear":
        return linear("layers", hidden, tower)
    if kind == DOWN_SAMPLING:
        joined = 4 * tower
        first = norm("layers.1", joined) | linear("layers.2", hidden, joined)
        return first | linear("layers.4", hidden, hidden)
    depth = int(kind.removeprefix("mlp").partition("x")[0])
    found = linear("layers.0", hidden, tower)
    for number in range(1, depth):
        found |= linear(f"layers.{2 * number}", hidden, hidden)
    return found


# What stands before a tower's or projector's own names: in the three directories, in one directory, in the second
# source. Checkpoints of one directory hold the tower too where it was trained; transformers 5 dropped the level
# `vision_model` from its modules.
_PLACES = (
    ("vision_tower/vision_tower.vision_model.", "vision_tower."),
    ("vision_tower/vision_model.", "vision_tower."),
    ("vision_tower/", "vision_tower."),
    ("mm_projector/", "mm_projector."),
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.vision_tower.", "vision_tower."),
    ("model.mm_projector.", "mm_projector.layers."),
)
_SECOND = (("vision_model.", "vision_tower."), ("", "vision_tower."))


def canonical(source: str, name: str) -> str | None:
    """A tensor's name as the module's parameters have it; None where it is not of the visual side."""
    if source == "module":
        return name
    for place, ours in _SECOND if source == "vision" else _PLACES:
        if name.startswith(place):
            return ours + name.removeprefix(place)
    return None
