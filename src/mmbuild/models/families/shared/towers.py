"""The keys of a tower's config that its module depends on, so that models with equal towers share a compilation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VIT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
_KEYS: Mapping[str, tuple[str, ...]] = {
    "clip_vision_model": _VIT,
    "siglip_vision_model": _VIT,
    "blip_2_vision_model": (*_VIT, "qkv_bias"),
    "blip_2_qformer": (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
        "cross_attention_frequency",
        "encoder_hidden_size",
    ),
    "donut-swin": (
        "image_size",
        "patch_size",
        "embed_dim",
        "depths",
        "num_heads",
        "window_size",
        "mlp_ratio",
        "qkv_bias",
        "hidden_act",
        "layer_norm_eps",
    ),
}


def tower_keys(tower: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """What a tower's module is built from.

    Args:
        tower: The tower's config, parsed, with its ``model_type``.
        changes: Values to use instead.
    """
    kind = str(tower["model_type"])
    return {"model_type": kind, **{key: tower[key] for key in _KEYS[kind]}, **changes}


def built(kind: Any, keys: Mapping[str, Any]) -> Any:
    """The config of transformers' class ``kind`` from the result of :func:`tower_keys`."""
    return kind(**{key: value for key, value in keys.items() if key != "model_type"})
