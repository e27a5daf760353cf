"""The weights of BLIP-2's visual side: their names in files, and their shapes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.models.families.shared.tower_weights import Shapes, below, linear, tower_weights

_PREFIXES = ("vision_model.", "qformer.", "language_projection.")


def tensors(shape: Mapping[str, Any]) -> Shapes:
    """Shapes by common name, from the result of :func:`.visual_shape.shape`."""
    width = shape["qformer"]["hidden_size"]
    return {
        **below("vision_model.", tower_weights(shape["tower"])),
        "query_tokens": (1, shape["num_query_tokens"], width),
        **below("qformer.", tower_weights(shape["qformer"])),
        **linear("language_projection", shape["hidden_size"], width),
    }


def canonical(source: str, name: str) -> str | None:  # noqa: ARG001 (only a BLIP-2 checkpoint has such names)
    """The tensor's name; None if it is not part of the visual side."""
    return name if name == "query_tokens" or name.startswith(_PREFIXES) else None
