"""BLIP-2 with Flan-T5: an encoder-decoder behind a ViT and a Q-Former.

Two forms, as for :mod:`mmbuild.models.families.blip2.opt`. Sizes and switches as ``transformers.T5Config`` and
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

from mmbuild.models.families import blip2
from mmbuild.models.families.facts import Config, LlmFacts, ModelFacts, Naming, Traits
from mmbuild.models.families.shared.config_reading import first_token, require_value, token_ids
from mmbuild.models.families.transformers_config import wrong_value
from mmbuild.models.files.generation_settings import SettingsPlace

NAME = "blip2-t5"
TRAITS = Traits(
    encoder_decoder=True,
    second_sources=("vision",),
    dtypes=("float32", "bfloat16"),
    most_images_per_prompt=1,
)

# Below ``language_model.`` in a whole checkpoint, bare in a text one. Both stacks share one embedding table; older
# files hold copies of it, and an unused table of relative positions for cross-attention. Features and words reach the
# encoder through the shared table, whatever its own copy holds; the decoder reads its own.
_IGNORED = (
    "encoder.embed_tokens.weight",
    "EncDecAttention.relative_attention_bias.weight",
)
NAMINGS = (
    Naming("language_model.", "language_model.lm_head.weight", ignored=_IGNORED),
    Naming("", "lm_head.weight", ignored=_IGNORED),
)

# Of a tokenizer for random weights: special tokens, and what an encoded text looks like.
SPECIAL_TOKENS = {"<pad>": 0, "</s>": 1, "<unk>": 2, "<s>": 3}
ENCODED = "$A </s>"

WIDTH = "d_model"  # what the config calls its width

# Tokens of T5's tokenizer, 32,000 pieces and 100 sentinels: the id that Blip2Processor gives `<image>`.
_TOKENIZER_SIZE = 32100


def facts(config: Config, vision: Config | None = None) -> ModelFacts:
    """Read a BLIP-2 or T5 ``config.json``; see :class:`~mmbuild.models.families.facts.Family`."""
    parts = blip2.parts(config, vision, NAME, "t5")
    text, where = parts.text, parts.where
    require_value(where, text, "is_encoder_decoder", True, "a T5 is an encoder-decoder")
    encoder = _stack(text, where)
    return ModelFacts(
        family=NAME,
        llm=_decoder(text, where, encoder),
        visual=blip2.visual_facts(parts),
        image_token_id=blip2.image_token_id(parts.blip2, _TOKENIZER_SIZE, encoder.vocab_size),
        eos_token_ids=token_ids(f"{where}eos_token_id", text["eos_token_id"]),
        encoder=encoder,
    )


def settings_place(config: Config) -> SettingsPlace:
    """See :func:`mmbuild.models.families.blip2.settings_place`."""
    return blip2.settings_place(config, "t5")


def _stack(text: Mapping[str, Any], where: str) -> LlmFacts:
    heads, head = text["num_heads"], text["d_kv"]
    if head < 1:
        raise wrong_value(where, "d_kv", head, "at least 1", 64)
    activation = text["dense_act_fn"]
    if not isinstance(activation, str):
        raise wrong_value(where, "dense_act_fn", activation, "the name of an activation, or left out")
    return LlmFacts(
        architecture="EncoderModel",
        vocab_size=text["vocab_size"],
        hidden_size=text["d_model"],
        num_hidden_layers=text["num_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_size=head,
        intermediate_size=text["d_ff"],
        hidden_act=activation,
        norm_epsilon=text["layer_norm_epsilon"],
        max_position_embeddings=0,
        position_embedding_type="relative",
        tie_word_embeddings=text["tie_word_embeddings"],
        mlp_type="GatedMLP" if text["is_gated_act"] else "MLP",
        q_scaling=head**-0.5,
        num_buckets=text["relative_attention_num_buckets"],
        max_distance=text["relative_attention_max_distance"],
    )


def _decoder(text: Mapping[str, Any], where: str, encoder: LlmFacts) -> LlmFacts:
    return replace(
        encoder,
        architecture="DecoderModel",
        num_hidden_layers=text["num_decoder_layers"],
        cross_attention=True,
        rescale_before_lm_head=bool(text["scale_decoder_outputs"]),
        decoder_start_token_id=first_token(
            (text, where, "decoder_start_token_id"),
            (text, where, "bos_token_id"),
            # transformers needs one of these two; T5 was trained to begin with its padding.
            (text, where, "pad_token_id"),
        ),
    )
