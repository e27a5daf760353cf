"""Reads the config of a LLaMA decoder like ``transformers.LlamaConfig`` (5.17)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.models.families.facts import LlmFacts
from mmbuild.models.families.rope import resolve
from mmbuild.models.families.shared.config_reading import not_built, require_value
from mmbuild.models.families.transformers_config import display

_PLAIN = {
    "attention_bias": (False, "only LLaMA decoders without biases are supported"),
    "mlp_bias": (False, "only LLaMA decoders without biases are supported"),
    "is_encoder_decoder": (False, "a LLaMA has no encoder"),
}


def llama_facts(text: Mapping[str, Any], where: str, *, tied: bool) -> LlmFacts:
    """Sizes and switches of a decoder.

    Args:
        text: Its config, as :func:`mmbuild.models.families.transformers_config.parse` returns it.
        where: Prefix of its keys in messages, such as ``text_config.``.
        tied: Whether the output head is the embedding table.

    Raises:
        FamilyError: MM411, unsupported biases, windows or numbers; MM503, unsupported positions.
    """
    for key, (built, why) in _PLAIN.items():
        require_value(where, text, key, built, why)
    _require_full_attention(text, where)
    rotary = resolve(text, where)
    if text["head_dim"] % 2:
        raise not_built(
            f"the heads' width (`{where}head_dim`) is {text['head_dim']}, and rotary positions need an even one",
            "compare config.json with the model's original",
        )
    return LlmFacts(
        architecture="LlamaForCausalLM",
        vocab_size=text["vocab_size"],
        hidden_size=text["hidden_size"],
        num_hidden_layers=text["num_hidden_layers"],
        num_attention_heads=text["num_attention_heads"],
        num_key_value_heads=text["num_key_value_heads"],
        head_size=text["head_dim"],
        intermediate_size=text["intermediate_size"],
        hidden_act=text["hidden_act"],
        norm_epsilon=text["rms_norm_eps"],
        max_position_embeddings=text["max_position_embeddings"],
        position_embedding_type="rope_gpt_neox",
        rotary_base=rotary.base,
        rotary_scaling=rotary.scaling,
        tie_word_embeddings=tied,
    )


def _require_full_attention(text: Mapping[str, Any], where: str) -> None:
    """Reject attention windows, with which transformers keeps fewer positions than the model has."""
    for key in ("sliding_window", "attention_chunk_size"):
        window = text.get(key)
        if window is not None and not (isinstance(window, int) and window >= text["max_position_embeddings"]):
            raise not_built(
                f"`{where}{key}` in config.json is {display(window)}; only decoders without a window are supported",
                "use a model without a window",
            )
