"""What the config of a LLaMA decoder means, as ``transformers.LlamaConfig`` (4.38 to 5.17) understands it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.families.base import LlmFacts
from mmbuild.families.shared.reading import not_built


def llama_facts(text: Mapping[str, Any], where: str, *, tied: bool) -> LlmFacts:
    """Sizes and switches of a decoder.

    Args:
        text: Its config over ``LlamaConfig``'s defaults.
        where: What that section of ``config.json`` is called, for messages; ``text_config.``.
        tied: Whether the output head is the embedding table.

    Raises:
        FamilyError: MM411, it has biases.
    """
    for bias in ("attention_bias", "mlp_bias"):
        if text.get(bias):
            raise not_built(f"`{where}{bias}` is true, and LLaMA decoders are built without biases")
    heads = int(text["num_attention_heads"])
    rope = text.get("rope_parameters") or {}
    return LlmFacts(
        architecture="LlamaForCausalLM",
        vocab_size=int(text["vocab_size"]),
        hidden_size=int(text["hidden_size"]),
        num_hidden_layers=int(text["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(text.get("num_key_value_heads") or heads),
        head_size=int(text.get("head_dim") or int(text["hidden_size"]) // heads),
        intermediate_size=int(text["intermediate_size"]),
        hidden_act=str(text["hidden_act"]),
        norm_epsilon=float(text["rms_norm_eps"]),
        max_position_embeddings=int(text["max_position_embeddings"]),
        position_embedding_type="rope_gpt_neox",
        rotary_base=float(text.get("rope_theta") or rope.get("rope_theta") or 10000.0),
        rotary_scaling=_rotary_scaling(text.get("rope_scaling") or rope),
        tie_word_embeddings=tied,
    )


def _rotary_scaling(rope: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The mapping, None where positions are not scaled; files before transformers 4.45 call its kind ``type``."""
    return None if rope.get("rope_type", rope.get("type", "default")) == "default" else rope
