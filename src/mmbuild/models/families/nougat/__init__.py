"""Nougat: a Swin Transformer reads a page, an mBART decoder writes its markup.

``config.json`` of ``vision-encoder-decoder`` with ``donut-swin`` and ``mbart``. The features of a page go to the
decoder's cross-attention, each sequence to its own. Their number is what ``DonutSwinModel`` makes of a page: a
patch grid, padded to whole patches, that every stage but the last halves, padding odd sides
(``DonutSwinPatchMerging``). The decoder's position table has two rows more than there are positions; they are not
counted. Switches as ``transformers.MBartDecoder`` (5.17) has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.models.families.facts import (
    Config,
    Derivation,
    LlmFacts,
    ModelFacts,
    Naming,
    Traits,
    VisualFacts,
)
from mmbuild.models.families.recognize import types_of
from mmbuild.models.families.shared.config_reading import (
    first_token,
    not_built,
    pair,
    require_model_type,
    require_tower,
    require_value,
    section,
    token_ids,
)
from mmbuild.models.families.transformers_config import display, is_number, parse, wrong_value
from mmbuild.models.families.unsupported import require_supported
from mmbuild.models.files.generation_settings import SettingsPlace

NAME = "nougat"
TRAITS = Traits(encoder_decoder=True, cross_attention=True, most_images_per_prompt=1)
# ``VisionEncoderDecoderModel.decoder`` is an ``MBartForCausalLM``.
NAMINGS = (Naming("decoder.model.decoder.", "decoder.lm_head.weight"),)

# Each stage halves the page; after this many nothing is left to halve.
_MOST_STAGES = 16


@dataclass(frozen=True, slots=True)
class Sections:
    """A Nougat config, parsed.

    Attributes:
        root: ``VisionEncoderDecoderConfig``.
        encoder: ``DonutSwinConfig``.
        decoder: ``MBartConfig``.
    """

    root: Mapping[str, Any]
    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]


def sections(config: Config) -> Sections:
    """Parse a ``config.json``.

    Raises:
        FamilyError: It is of another family, or holds what cannot be built.
    """
    require_supported(config, NAME)
    (kind,) = types_of(NAME)
    require_model_type(config, NAME, (kind,))
    root = parse(kind, config)
    return Sections(
        root, section(root, "encoder", NAME, ("donut-swin",)), section(root, "decoder", NAME, ("mbart",))
    )


def facts(config: Config, vision: Config | None = None) -> ModelFacts:  # noqa: ARG001 (one source has it all)
    """Read a Nougat ``config.json``; see :class:`~mmbuild.models.families.facts.Family`."""
    read = sections(config)
    root, encoder, decoder = read.root, read.encoder, read.decoder
    _require_stages(encoder)
    _require_joined(encoder, decoder)
    eos = root.get("eos_token_id")
    return ModelFacts(
        family=NAME,
        llm=_decoder(root, decoder),
        visual=_visual(encoder),
        image_token_id=None,
        eos_token_ids=token_ids("eos_token_id", decoder["eos_token_id"] if eos is None else eos),
    )


def settings_place(config: Config) -> SettingsPlace:  # noqa: ARG001 (the same for all)
    """The model's own ``generation_config.json``."""
    return SettingsPlace()


def _require_joined(encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> None:
    """Check the widths that ``VisionEncoderDecoderModel`` and mBART's cross-attention need to agree."""
    width, features = decoder["d_model"], encoder["embed_dim"] * 2 ** (len(encoder["depths"]) - 1)
    if encoder["hidden_size"] != features:
        raise not_built(
            f"`encoder.hidden_size` is {display(encoder['hidden_size'])}, and `embed_dim` and `depths` "
            f"make {features}",
            "compare config.json with the model's original, or leave the key out",
        )
    given = decoder.get("cross_attention_hidden_size")
    if given is not None and not given == features == width:
        raise not_built(
            f"`decoder.cross_attention_hidden_size` is {display(given)}, `decoder.d_model` {width}, and the "
            f"encoder's features are of width {features}; mBART's cross-attention needs features of the "
            f"decoder's width",
            "remove the key; features of another width are then projected",
        )
    require_value(
        "decoder.", decoder, "add_cross_attention", True, "the decoder could not attend to the page"
    )


def _decoder(root: Mapping[str, Any], decoder: Mapping[str, Any]) -> LlmFacts:
    width, heads = decoder["d_model"], decoder["decoder_attention_heads"]
    return LlmFacts(
        architecture="DecoderModel",
        vocab_size=decoder["vocab_size"],
        hidden_size=width,
        num_hidden_layers=decoder["decoder_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_size=width // heads,
        intermediate_size=decoder["decoder_ffn_dim"],
        hidden_act=decoder["activation_function"],
        norm_epsilon=1e-5,  # nn.LayerNorm's own; mBART's config has no key for it
        max_position_embeddings=decoder["max_position_embeddings"],
        position_embedding_type="learned_absolute",
        tie_word_embeddings=decoder["tie_word_embeddings"],
        layernorm_type="LayerNorm",
        has_embedding_layernorm=True,
        has_embedding_scale=decoder["scale_embedding"],
        has_attention_qkvo_bias=True,
        has_mlp_bias=True,
        mlp_type="MLP",
        cross_attention=True,
        # As transformers' generate: what is stated, outside before inside, else the first token of a text.
        decoder_start_token_id=first_token(
            (root, "", "decoder_start_token_id"),
            (decoder, "decoder.", "decoder_start_token_id"),
            (root, "", "bos_token_id"),
            (decoder, "decoder.", "bos_token_id"),
        ),
    )


def _visual(encoder: Mapping[str, Any]) -> VisualFacts:
    where = "encoder."
    require_tower(where, encoder)
    require_value(where, encoder, "use_absolute_embeddings", False, "only towers without them are supported")
    height, width = pair(where, "image_size", encoder["image_size"])
    patch = pair(where, "patch_size", encoder["patch_size"])
    stages = len(encoder["depths"])
    down = _rows(height, patch[0], stages)
    across = _rows(width, patch[1], stages)
    count = down[-1] * across[-1]
    hidden = encoder["embed_dim"] * 2 ** (stages - 1)
    arithmetic = (
        f"{height} / {patch[0]} -> {' -> '.join(map(str, down))}, "
        f"{width} / {patch[1]} -> {' -> '.join(map(str, across))}; {down[-1]} x {across[-1]} = {count}"
    )
    return VisualFacts(
        num_visual_features=count,
        image_size=(height, width),
        derivation=Derivation("num_visual_features", count, arithmetic),
        num_hidden_layers=sum(encoder["depths"]),
        hidden_size=hidden,
        intermediate_size=int(encoder["mlp_ratio"] * hidden),
    )


def _require_stages(encoder: Mapping[str, Any]) -> None:
    """Layers and heads of every stage: each doubles the width, which its heads divide."""
    depths, heads, ratio = encoder["depths"], encoder["num_heads"], encoder["mlp_ratio"]
    if len(depths) > _MOST_STAGES or min(depths) < 1:
        raise wrong_value(
            "encoder.", "depths", depths, f"1 to {_MOST_STAGES} numbers of layers, each at least 1"
        )
    if len(heads) < len(depths):
        raise wrong_value("encoder.", "num_heads", heads, f"a number for each of the {len(depths)} stages")
    for stage, count in enumerate(heads[: len(depths)]):
        if count < 1 or encoder["embed_dim"] * 2**stage % count:
            raise wrong_value(
                "encoder.", "num_heads", heads, f"numbers that divide {encoder['embed_dim']} x 2^stage"
            )
    if encoder["window_size"] < 1:
        raise wrong_value("encoder.", "window_size", encoder["window_size"], "at least 1", 7)
    if not is_number(ratio) or not 0 < ratio < 1000:
        raise wrong_value("encoder.", "mlp_ratio", ratio, "a number above 0", 4.0)


def _rows(pixels: int, patch: int, stages: int) -> list[int]:
    """Patches on one axis, stage by stage, both divisions rounded up."""
    sides = [-(-pixels // patch)]
    for _ in range(stages - 1):
        sides.append(-(-sides[-1] // 2))
    return sides
