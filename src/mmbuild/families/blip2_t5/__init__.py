"""BLIP-2 with Flan-T5: an encoder-decoder behind a ViT and a Q-Former.

Two forms, as for :mod:`mmbuild.families.blip2_opt`. Sizes and switches as ``transformers.T5Config`` and
``T5Stack`` (4.38 to 5.17) understand them:

- Attention scores are not scaled: ``q_scaling`` is ``1 / sqrt(d_kv)``, so that the division by
  ``q_scaling * sqrt(head_size)`` does nothing.
- ``dense_act_fn`` is taken where it is written, else it follows from ``feed_forward_proj``. The two differ in
  ``Salesforce/blip2-flan-t5-*``: ``gated-gelu`` alone means the approximation ``gelu_new``, and these files say
  ``gelu``, which transformers obeys.
- Hidden states are scaled before the head where ``scale_decoder_outputs`` says so, and in older files where
  ``tie_word_embeddings`` is not false. transformers 5 ties head and embeddings of every T5 unless the weights hold
  two different tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmbuild.families.base import Config, LlmFacts, ModelFacts, Traits
from mmbuild.families.shared import blip2
from mmbuild.families.shared.reading import not_built, token_ids
from mmbuild.models.generation_settings import SettingsPlace

NAME = "blip2-t5"
TRAITS = Traits(
    encoder_decoder=True,
    second_sources=("vision",),
    dtypes=("float32", "bfloat16"),
    most_images_per_prompt=1,
)

# Tokens of T5's tokenizer, 32,000 pieces and 100 sentinels: the id that Blip2Processor gives `<image>`.
_TOKENIZER_SIZE = 32100


def facts(config: Config, vision: Config | None = None) -> ModelFacts:
    """Read a BLIP-2 or T5 ``config.json``; see :class:`~mmbuild.families.base.Family`."""
    parts = blip2.parts(config, vision, NAME, "t5")
    encoder = _stack(parts.text)
    return ModelFacts(
        family=NAME,
        llm=_decoder(parts.text, encoder),
        visual=blip2.visual_facts(parts.blip2, NAME),
        image_token_id=blip2.image_token_id(parts.blip2, _TOKENIZER_SIZE, encoder.vocab_size),
        eos_token_ids=token_ids(parts.text["eos_token_id"]),
        encoder=encoder,
    )


def settings_place(config: Config) -> SettingsPlace:
    """See :func:`mmbuild.families.shared.blip2.settings_place`."""
    return blip2.settings_place(config, "t5")


def _stack(text: Mapping[str, Any]) -> LlmFacts:
    heads, head = int(text["num_heads"]), int(text["d_kv"])
    gated, activation = _mlp(text)
    return LlmFacts(
        architecture="EncoderModel",
        vocab_size=int(text["vocab_size"]),
        hidden_size=int(text["d_model"]),
        num_hidden_layers=int(text["num_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_size=head,
        intermediate_size=int(text["d_ff"]),
        hidden_act=activation,
        norm_epsilon=float(text["layer_norm_epsilon"]),
        max_position_embeddings=0,
        position_embedding_type="relative",
        tie_word_embeddings=bool(text.get("tie_word_embeddings", True)),
        mlp_type="GatedMLP" if gated else "MLP",
        q_scaling=head**-0.5,
        num_buckets=int(text["relative_attention_num_buckets"]),
        max_distance=int(text["relative_attention_max_distance"]),
    )


def _decoder(text: Mapping[str, Any], encoder: LlmFacts) -> LlmFacts:
    start = text.get("decoder_start_token_id")
    return replace(
        encoder,
        architecture="DecoderModel",
        num_hidden_layers=int(text.get("num_decoder_layers") or text["num_layers"]),
        cross_attention=True,
        rescale_before_lm_head=bool(
            text.get("scale_decoder_outputs", text.get("tie_word_embeddings") is not False)
        ),
        decoder_start_token_id=int(text["pad_token_id"] if start is None else start),
    )


def _mlp(text: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the MLP is gated, and its activation."""
    kind = str(text["feed_forward_proj"])
    first, _, last = kind.partition("-")
    if (last and first != "gated") or "-" in last:
        raise not_built(
            f"`feed_forward_proj` is `{kind}`; T5 knows an activation, or `gated-` and an activation"
        )
    derived = "gelu_new" if kind == "gated-gelu" else last or first
    return bool(text.get("is_gated_act", first == "gated")), str(text.get("dense_act_fn", derived))
