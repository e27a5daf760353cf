"""Nougat: a Swin Transformer reads a page, an mBART decoder writes its markup.

``config.json`` of ``vision-encoder-decoder`` with ``donut-swin`` and ``mbart``. The features of a page go to the
decoder's cross-attention, each sequence to its own. Their number is what ``DonutSwinModel`` makes of a page: a
patch grid, padded to whole patches, that every stage but the last halves, padding odd sides
(``DonutSwinPatchMerging``). The decoder's position table has two rows more than there are positions; they are not
counted. Switches as ``transformers.MBartDecoder`` (4.38 to 5.17) has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.families.base import Config, Derivation, LlmFacts, ModelFacts, Traits, VisualFacts
from mmbuild.families.shared.reading import not_built, pair, require_model_type, section, token_ids
from mmbuild.models.generation_settings import SettingsPlace

NAME = "nougat"
TRAITS = Traits(encoder_decoder=True, cross_attention=True, most_images_per_prompt=1)


def facts(config: Config, vision: Config | None = None) -> ModelFacts:  # noqa: ARG001 (one source has it all)
    """Read a Nougat ``config.json``; see :class:`~mmbuild.families.base.Family`."""
    require_model_type(config, NAME, ("vision-encoder-decoder",))
    encoder = section(config, "encoder", NAME, ("donut-swin",))
    decoder = section(config, "decoder", NAME, ("mbart",))
    return ModelFacts(
        family=NAME,
        llm=_decoder(config, decoder),
        visual=_visual(encoder),
        image_token_id=None,
        eos_token_ids=token_ids(config.get("eos_token_id") or decoder["eos_token_id"]),
    )


def settings_place(config: Config) -> SettingsPlace:  # noqa: ARG001 (the same for all)
    """The model's own ``generation_config.json``."""
    return SettingsPlace()


def _decoder(config: Config, decoder: Mapping[str, Any]) -> LlmFacts:
    width, heads = int(decoder["d_model"]), int(decoder["decoder_attention_heads"])
    given = decoder.get("cross_attention_hidden_size")
    if given is not None and given != width:
        raise not_built(
            f"`decoder.cross_attention_hidden_size` is {given} and `decoder.d_model` {width}: "
            "mBART's cross-attention takes features of its own width"
        )
    if not decoder.get("add_cross_attention", True):
        raise not_built("`decoder.add_cross_attention` is false: the decoder cannot look at the page")
    return LlmFacts(
        architecture="DecoderModel",
        vocab_size=int(decoder["vocab_size"]),
        hidden_size=width,
        num_hidden_layers=int(decoder["decoder_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_size=width // heads,
        intermediate_size=int(decoder["decoder_ffn_dim"]),
        hidden_act=str(decoder["activation_function"]),
        norm_epsilon=1e-5,  # nn.LayerNorm's own; mBART's config has no key for it
        max_position_embeddings=int(decoder["max_position_embeddings"]),
        position_embedding_type="learned_absolute",
        tie_word_embeddings=bool(decoder["tie_word_embeddings"]),
        layernorm_type="LayerNorm",
        has_embedding_layernorm=True,
        has_embedding_scale=bool(decoder["scale_embedding"]),
        has_attention_qkvo_bias=True,
        has_mlp_bias=True,
        mlp_type="MLP",
        cross_attention=True,
        decoder_start_token_id=_start(config, decoder),
    )


def _start(config: Config, decoder: Mapping[str, Any]) -> int:
    """The token that answers begin with: what is stated, outside before inside, else the first of a text."""
    places = (
        config.get("decoder_start_token_id"),
        decoder.get("decoder_start_token_id"),
        config.get("bos_token_id"),
        decoder["bos_token_id"],
    )
    return next(int(value) for value in places if value is not None)


def _visual(encoder: Mapping[str, Any]) -> VisualFacts:
    if encoder.get("use_absolute_embeddings"):
        raise not_built("`encoder.use_absolute_embeddings` is true, and family nougat builds towers without")
    height, width = pair("encoder.image_size", encoder["image_size"])
    patch = pair("encoder.patch_size", encoder["patch_size"])
    stages = len(encoder["depths"])
    down = _rows(height, patch[0], stages)
    across = _rows(width, patch[1], stages)
    count = down[-1] * across[-1]
    hidden = int(encoder["embed_dim"]) * 2 ** (stages - 1)
    arithmetic = (
        f"{height} / {patch[0]} -> {' -> '.join(map(str, down))}, "
        f"{width} / {patch[1]} -> {' -> '.join(map(str, across))}; {down[-1]} x {across[-1]} = {count}"
    )
    return VisualFacts(
        num_visual_features=count,
        image_size=(height, width),
        derivation=Derivation("num_visual_features", count, arithmetic),
        num_hidden_layers=sum(int(depth) for depth in encoder["depths"]),
        hidden_size=hidden,
        intermediate_size=int(float(encoder["mlp_ratio"]) * hidden),
    )


def _rows(pixels: int, patch: int, stages: int) -> list[int]:
    """Patches on one axis, stage by stage, both divisions rounded up."""
    sides = [-(-pixels // patch)]
    for _ in range(stages - 1):
        sides.append(-(-sides[-1] // 2))
    return sides
