"""What transformers reads in a ``config.json``, in the words of ``ModelFacts``; shares no code with mmbuild."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import logging as transformers_logging

transformers_logging.set_verbosity(transformers_logging.CRITICAL)  # it warns of most of what is drawn


@dataclass(slots=True)
class Expected:
    """Facts by name; ``frequencies`` where positions are rotary."""

    llm: dict[str, Any]
    visual: dict[str, Any]
    encoder: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    frequencies: torch.Tensor | None = None


class RefusalError(Exception):
    """transformers makes no config of it, or one that its model cannot be made or asked with."""


def read(family: str, config: Mapping[str, Any], second: Mapping[str, Any] | None) -> Expected:
    """The parsed config's facts.

    Raises:
        RefusalError: There are none.
    """
    try:
        return _READERS[family](config, second)
    except Exception as error:  # whatever it is that transformers stumbles over
        raise RefusalError(f"{type(error).__name__} {error}") from error


def _parsed(config: Mapping[str, Any]) -> Any:
    return CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(dict(config)))


def _ids(value: Any) -> tuple[int, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def _generation(config: Any) -> Any:
    return GenerationConfig.from_model_config(copy.deepcopy(config))


def _start(generation: Any) -> int | None:
    """As ``GenerationMixin._prepare_special_tokens`` chooses it."""
    stated = generation.decoder_start_token_id
    return generation.bos_token_id if stated is None else stated


def _tower(tower: Any) -> dict[str, Any]:
    names = ("num_hidden_layers", "hidden_size", "intermediate_size")
    return {name: getattr(tower, name) for name in names}


def _llama(text: Any, tower: Any, *, tied: bool) -> Expected:
    rotary = LlamaRotaryEmbedding(copy.deepcopy(text))
    assert rotary.attention_scaling == 1.0
    assert rotary.inv_freq.numel() * 2 == text.head_dim  # else rotation fails
    return Expected(
        llm={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "head_size": text.head_dim,
            "intermediate_size": text.intermediate_size,
            "hidden_act": text.hidden_act,
            "norm_epsilon": text.rms_norm_eps,
            "max_position_embeddings": text.max_position_embeddings,
            "tie_word_embeddings": tied,
        },
        visual=_tower(tower),
        frequencies=rotary.inv_freq,
    )


def _llava(config: Mapping[str, Any], _second: Any) -> Expected:
    whole = _parsed(config)
    tower = whole.vision_config
    found = _llama(whole.text_config, tower, tied=whole.tie_word_embeddings)
    assert whole.image_token_id is not None
    side = tower.image_size // tower.patch_size
    found.visual["num_visual_features"] = side * side + (whole.vision_feature_select_strategy == "full")
    found.model = {
        "image_token_id": whole.image_token_id,
        "eos_token_ids": _ids(_generation(whole).eos_token_id),
    }
    return found


def _vila(config: Mapping[str, Any], second: Mapping[str, Any] | None) -> Expected:
    if second is None:
        text, tower = _parsed(config["llm_cfg"]), _parsed(config["vision_tower_cfg"])
    else:
        text = LlamaConfig.from_dict(copy.deepcopy(dict(config)))
        # As CLIPVisionModel.from_pretrained takes the section out of a whole CLIP.
        tower = CLIPVisionConfig.from_dict(copy.deepcopy(dict(second.get("vision_config", second))))
    found = _llama(text, tower, tied=text.tie_word_embeddings)
    found.model = {"eos_token_ids": _ids(_generation(text).eos_token_id)}
    return found


def _blip2(
    config: Mapping[str, Any], second: Mapping[str, Any] | None, kind: str
) -> tuple[Any, Any, Expected]:
    whole = _parsed(config if second is None else second)
    text = whole.text_config if second is None else _parsed(config)
    assert text.model_type == whole.text_config.model_type == kind
    assert bool(whole.use_decoder_only_language_model) == (kind == "opt")
    found = Expected({}, {**_tower(whole.vision_config), "num_visual_features": whole.num_query_tokens})
    found.model = {"eos_token_ids": _ids(_generation(text).eos_token_id)}
    if whole.image_token_index is not None:
        found.model["image_token_id"] = whole.image_token_id
    return whole, text, found


def _opt(config: Mapping[str, Any], second: Mapping[str, Any] | None) -> Expected:
    _whole, text, found = _blip2(config, second, "opt")
    assert text.word_embed_proj_dim == text.hidden_size
    found.llm = {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "head_size": text.hidden_size // text.num_attention_heads,
        "intermediate_size": text.ffn_dim,
        "hidden_act": text.activation_function,
        "max_position_embeddings": text.max_position_embeddings,
        "layernorm_position": "pre_layernorm" if text.do_layer_norm_before else "post_layernorm",
        "has_model_final_layernorm": text.do_layer_norm_before and not text._remove_final_layer_norm,
        "tie_word_embeddings": text.tie_word_embeddings,
    }
    return found


def _t5(config: Mapping[str, Any], second: Mapping[str, Any] | None) -> Expected:
    _whole, text, found = _blip2(config, second, "t5")
    assert isinstance(text.dense_act_fn, str)
    both = {
        "vocab_size": text.vocab_size,
        "hidden_size": text.d_model,
        "num_attention_heads": text.num_heads,
        "head_size": text.d_kv,
        "intermediate_size": text.d_ff,
        "hidden_act": text.dense_act_fn,
        "norm_epsilon": text.layer_norm_epsilon,
        "mlp_type": "GatedMLP" if text.is_gated_act else "MLP",
        "num_buckets": text.relative_attention_num_buckets,
        "max_distance": text.relative_attention_max_distance,
    }
    found.encoder = {**both, "num_hidden_layers": text.num_layers}
    found.llm = {
        **both,
        "num_hidden_layers": text.num_decoder_layers,
        "rescale_before_lm_head": bool(text.scale_decoder_outputs),
    }
    start = _start(_generation(text))
    if start is not None:  # else generate refuses, and T5's documentation says the padding
        found.llm["decoder_start_token_id"] = start
    return found


def _nougat(config: Mapping[str, Any], _second: Any) -> Expected:
    whole = _parsed(config)
    text, tower, generation = whole.decoder, whole.encoder, _generation(whole)
    given = getattr(text, "cross_attention_hidden_size", None)
    assert given in (None, tower.hidden_size)
    start = _start(generation)
    assert start is not None
    return Expected(
        llm={
            "vocab_size": text.vocab_size,
            "hidden_size": text.d_model,
            "num_hidden_layers": text.decoder_layers,
            "num_attention_heads": text.decoder_attention_heads,
            "head_size": text.d_model // text.decoder_attention_heads,
            "intermediate_size": text.decoder_ffn_dim,
            "hidden_act": text.activation_function,
            "max_position_embeddings": text.max_position_embeddings,
            "has_embedding_scale": text.scale_embedding,
            "tie_word_embeddings": text.tie_word_embeddings,
            "decoder_start_token_id": start,
        },
        visual={
            "num_hidden_layers": sum(tower.depths),
            "hidden_size": tower.hidden_size,
            "intermediate_size": int(tower.mlp_ratio * tower.hidden_size),
        },
        model={"eos_token_ids": _ids(generation.eos_token_id)},
    )


_READERS = {"llava": _llava, "vila": _vila, "blip2-opt": _opt, "blip2-t5": _t5, "nougat": _nougat}
