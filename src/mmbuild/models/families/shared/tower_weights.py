"""Names and shapes of the weights of visual towers, as the modules of transformers have them; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""


def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Shapes:
    """A linear layer ``[rows, columns]`` with its bias."""
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    """A layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def patches(name: str, width: int, sides: tuple[int, int], *, bias: bool = True) -> Shapes:
    """The convolution that embeds patches of three channels."""
    return {f"{name}.weight": (width, 3, *sides)} | ({f"{name}.bias": (width,)} if bias else {})


def tower_weights(tower: Mapping[str, Any]) -> Shapes:
    """The weights of a tower that its module uses, without the tower's own prefix.

    Args:
        tower: Result of :func:`~mmbuild.models.families.shared.towers.tower_keys`.
    """
    return _TOWERS[tower["model_type"]](tower)


def _vit_layer(name: str, tower: Mapping[str, Any]) -> Shapes:
    width, inner = tower["hidden_size"], tower["intermediate_size"]
    return {
        **norm(f"{name}.layer_norm1", width),
        **norm(f"{name}.layer_norm2", width),
        **linear(f"{name}.mlp.fc1", inner, width),
        **linear(f"{name}.mlp.fc2", width, inner),
    }


def _separate_layers(tower: Mapping[str, Any]) -> Shapes:
    """Layers of CLIP and SigLIP, with a matrix each for queries, keys, values and outputs."""
    width, found = tower["hidden_size"], Shapes()
    for number in range(tower["num_hidden_layers"]):
        name = f"encoder.layers.{number}"
        found |= _vit_layer(name, tower)
        for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{name}.self_attn.{matrix}", width, width)
    return found


def _grid(tower: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
    """Number and sides of square patches."""
    patch = tower["patch_size"]
    return (tower["image_size"] // patch) ** 2, (patch, patch)


def _clip(tower: Mapping[str, Any]) -> Shapes:
    width, (count, sides) = tower["hidden_size"], _grid(tower)
    return {
        "embeddings.class_embedding": (width,),
        **patches("embeddings.patch_embedding", width, sides, bias=False),
        "embeddings.position_embedding.weight": (count + 1, width),
        **norm("pre_layrnorm", width),  # transformers' own spelling
        **_separate_layers(tower),
    }


def _siglip(tower: Mapping[str, Any]) -> Shapes:
    width, (count, sides) = tower["hidden_size"], _grid(tower)
    return {
        **patches("embeddings.patch_embedding", width, sides),
        "embeddings.position_embedding.weight": (count, width),
        **_separate_layers(tower),
    }


def _blip2(tower: Mapping[str, Any]) -> Shapes:
    width, (count, sides) = tower["hidden_size"], _grid(tower)
    found: Shapes = {
        "embeddings.class_embedding": (1, 1, width),
        "embeddings.position_embedding": (1, count + 1, width),
        **patches("embeddings.patch_embedding", width, sides),
        **norm("post_layernorm", width),
    }
    for number in range(tower["num_hidden_layers"]):
        name = f"encoder.layers.{number}"
        found |= _vit_layer(name, tower)
        found |= linear(f"{name}.self_attn.qkv", 3 * width, width, bias=tower["qkv_bias"])
        found |= linear(f"{name}.self_attn.projection", width, width)
    return found


def _bert_attention(
    name: str, width: int, given: int, *, bias: bool = True, own: str = "attention"
) -> Shapes:
    """Attention in BERT's names, whose keys and values are computed from vectors of width ``given``."""
    return {
        **linear(f"{name}.{own}.query", width, width, bias=bias),
        **linear(f"{name}.{own}.key", width, given, bias=bias),
        **linear(f"{name}.{own}.value", width, given, bias=bias),
        **linear(f"{name}.output.dense", width, width),
    }


def _qformer(qformer: Mapping[str, Any]) -> Shapes:
    width, inner = qformer["hidden_size"], qformer["intermediate_size"]
    found = norm("layernorm", width)
    for number in range(qformer["num_hidden_layers"]):
        name = f"encoder.layer.{number}"
        attentions = {"attention": width}
        if number % qformer["cross_attention_frequency"] == 0:
            attentions["crossattention"] = qformer["encoder_hidden_size"]
        for kind, given in attentions.items():
            found |= _bert_attention(f"{name}.{kind}", width, given)
            found |= norm(f"{name}.{kind}.output.LayerNorm", width)
        found |= linear(f"{name}.intermediate_query.dense", inner, width)
        found |= linear(f"{name}.output_query.dense", width, inner)
        found |= norm(f"{name}.output_query.LayerNorm", width)
    return found


def _swin(tower: Mapping[str, Any]) -> Shapes:
    first = tower["embed_dim"]
    found = {
        **patches("embeddings.patch_embeddings.projection", first, tuple(tower["patch_size"])),
        **norm("embeddings.norm", first),
    }
    stages = list(zip(tower["depths"], tower["num_heads"], strict=True))
    for stage, (depth, heads) in enumerate(stages):
        width = first * 2**stage
        inner, offsets = int(tower["mlp_ratio"] * width), (2 * tower["window_size"] - 1) ** 2
        for block in range(depth):
            name = f"encoder.layers.{stage}.blocks.{block}"
            found |= norm(f"{name}.layernorm_before", width) | norm(f"{name}.layernorm_after", width)
            found |= _bert_attention(f"{name}.attention", width, width, bias=tower["qkv_bias"], own="self")
            found[f"{name}.attention.self.relative_position_bias_table"] = (offsets, heads)
            found |= linear(f"{name}.intermediate.dense", inner, width)
            found |= linear(f"{name}.output.dense", width, inner)
        if stage + 1 < len(stages):
            name = f"encoder.layers.{stage}.downsample"
            found |= linear(f"{name}.reduction", 2 * width, 4 * width, bias=False)
            found |= norm(f"{name}.norm", 4 * width)
    return found


_TOWERS: Mapping[str, Callable[[Mapping[str, Any]], Shapes]] = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
    "blip_2_vision_model": _blip2,
    "blip_2_qformer": _qformer,
    "donut-swin": _swin,
}


def below(prefix: str, shapes: Shapes) -> Shapes:
    """The shapes with a prefix before each name."""
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}
