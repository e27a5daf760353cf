"""BLIP-2 with OPT: a decoder with learned positions behind a ViT and a Q-Former.

Two forms: a whole BLIP-2 checkpoint (``Salesforce/blip2-opt-2.7b``), or an OPT text checkpoint
(``facebook/opt-2.7b``) with a BLIP-2 checkpoint as ``model.vision``. Sizes and switches as
``transformers.OPTConfig`` and ``OPTDecoder`` (5.17) understand them; the position table has two rows
more than there are positions, and they are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.models.families import blip2
from mmbuild.models.families.facts import Config, LlmFacts, ModelFacts, Naming, Traits
from mmbuild.models.families.shared.config_reading import not_built, require_value, token_ids
from mmbuild.models.families.transformers_config import require_multiple
from mmbuild.models.files.generation_settings import SettingsPlace

NAME = "blip2-opt"
TRAITS = Traits(
    second_sources=("vision",),
    most_images_per_prompt=1,
    generates_from="ids and embeddings",
    decoder="language_model.model.decoder",
    needs_image=True,
)

# Below ``language_model.`` in a whole checkpoint, bare in a text one. Text checkpoints older than transformers 4.19
# have no ``model.`` in front.
NAMINGS = (
    Naming("language_model.model.decoder.", "language_model.lm_head.weight"),
    Naming("model.decoder.", "lm_head.weight"),
    Naming("decoder.", "lm_head.weight"),
)

# Of a tokenizer for random weights: special tokens, and what an encoded text looks like.
SPECIAL_TOKENS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
ENCODED = "</s> $A"

WIDTH = "hidden_size"  # what the config calls its width

# Tokens of OPT's tokenizer, GPT-2's 50,257 and OPT's own: the id that Blip2Processor gives `<image>`.
_TOKENIZER_SIZE = 50265


def facts(config: Config, vision: Config | None = None) -> ModelFacts:
    """Read a BLIP-2 or OPT ``config.json``; see :class:`~mmbuild.models.families.facts.Family`."""
    parts = blip2.parts(config, vision, NAME, "opt")
    llm = _llm(parts.text, parts.where)
    return ModelFacts(
        family=NAME,
        llm=llm,
        visual=blip2.visual_facts(parts),
        image_token_id=blip2.image_token_id(parts.blip2, _TOKENIZER_SIZE, llm.vocab_size),
        eos_token_ids=token_ids(f"{parts.where}eos_token_id", parts.text["eos_token_id"]),
    )


def settings_place(config: Config) -> SettingsPlace:
    """See :func:`mmbuild.models.families.blip2.settings_place`."""
    return blip2.settings_place(config, "opt")


def _llm(text: Mapping[str, Any], where: str) -> LlmFacts:
    width, heads = text["hidden_size"], text["num_attention_heads"]
    _require_built(text, where)
    require_multiple(text, where, "hidden_size", "num_attention_heads")
    before = text["do_layer_norm_before"]
    return LlmFacts(
        architecture="OPTForCausalLM",
        vocab_size=text["vocab_size"],
        hidden_size=width,
        num_hidden_layers=text["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_size=width // heads,
        intermediate_size=text["ffn_dim"],
        hidden_act=text["activation_function"],
        norm_epsilon=1e-5,  # nn.LayerNorm's own; OPT's config has no key for it
        max_position_embeddings=text["max_position_embeddings"],
        position_embedding_type="learned_absolute",
        tie_word_embeddings=text["tie_word_embeddings"],
        layernorm_type="LayerNorm",
        layernorm_position="pre_layernorm" if before else "post_layernorm",
        has_model_final_layernorm=before and not text["_remove_final_layer_norm"],
        has_attention_qkvo_bias=True,
        has_mlp_bias=True,
        mlp_type="MLP",
    )


def _require_built(text: Mapping[str, Any], where: str) -> None:
    projected = text["word_embed_proj_dim"]
    if projected != text["hidden_size"]:
        raise not_built(
            f"`{where}word_embed_proj_dim` is {projected} and `{where}hidden_size` {text['hidden_size']}: such "
            "a model (OPT-350M) projects its embeddings, for which TensorRT-LLM's checkpoint has no tensor",
            "use an OPT model of another size",
        )
    for key in ("enable_bias", "layer_norm_elementwise_affine"):
        require_value(
            where, text, key, True, "only OPT decoders with biases and weighted norms are supported"
        )
    require_value(where, text, "is_encoder_decoder", False, "an OPT has no encoder")
