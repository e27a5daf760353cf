"""Types and ranges of the fields in an engine's JSON files. Nothing here imports torch.

Ranges are far beyond real models, but small enough that no value costs minutes or gigabytes before it is compared
with the compiled packages. ``LlmFacts``, ``EngineConfig``, ``VisualConfig`` and ``Description`` document the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.base.field_checks import (
    Check,
    any_value,
    digest,
    flag,
    inner_path,
    integer,
    list_of,
    mapping_of,
    number,
    one_of,
    optional,
    record,
    text,
    word,
    wrong,
)
from mmbuild.schema.backend_names import names

_SHOWN = 60
_DTYPE = one_of("float32", "float16", "bfloat16")
_TOKENS = integer(1, 1 << 22)
_TOKEN_ID = integer(0, 1 << 24)
_ANY_ID = integer(-(1 << 31), 1 << 31)
"""An id that may be outside the vocabulary: VILA marks images with -200."""

_RANKS = integer(1, 1_024)

_LLM: Mapping[str, Check] = {
    "architecture": word,
    "vocab_size": integer(1, 1 << 24),
    "hidden_size": integer(1, 1 << 18),
    "num_hidden_layers": integer(1, 1_024),
    "num_attention_heads": integer(1, 1 << 14),
    "num_key_value_heads": integer(1, 1 << 14),
    "head_size": integer(1, 1 << 14),
    "intermediate_size": integer(1, 1 << 20),
    "hidden_act": word,
    "norm_epsilon": number(0, 1),
    "max_position_embeddings": integer(0, 1 << 28),
    "position_embedding_type": one_of("rope_gpt_neox", "learned_absolute", "relative"),
    "rotary_base": optional(number(1e-6, 1e15)),
    "rotary_scaling": optional(mapping_of(any_value, 32)),
    "tie_word_embeddings": flag,
    "layernorm_type": one_of("RmsNorm", "LayerNorm"),
    "layernorm_position": one_of("pre_layernorm", "post_layernorm"),
    "has_model_final_layernorm": flag,
    "has_embedding_layernorm": flag,
    "has_embedding_scale": flag,
    "has_attention_qkvo_bias": flag,
    "has_mlp_bias": flag,
    "mlp_type": one_of("GatedMLP", "MLP"),
    "q_scaling": number(1e-9, 1e9),
    "num_buckets": integer(0, 1 << 16),
    "max_distance": integer(0, 1 << 24),
    "cross_attention": flag,
    "rescale_before_lm_head": flag,
    "decoder_start_token_id": optional(_TOKEN_ID),
}
_LLM_REQUIRED = 12
"""The first fields of :data:`_LLM` have no default."""

_STACK = record(_LLM, may_lack=tuple(_LLM)[_LLM_REQUIRED:])

_TORCH_LLM = record(
    {
        "llm": _STACK,
        "encoder": optional(_STACK),
        "dtype": _DTYPE,
        "quant_algo": optional(word),
        "tensor_parallel": _RANKS,
        "max_batch_size": integer(1, 1 << 16),
        "max_beam_width": integer(1, 1_024),
        "max_input_len": _TOKENS,
        "max_output_len": _TOKENS,
        "max_multimodal_len": integer(0, 1 << 22),
        "group_size": optional(integer(1, 1 << 16)),
    },
    may_lack=("group_size",),
)

_VARIABLE = record(
    {
        "family": word,
        "max_output_len": _TOKENS,
        "dtype": optional(word),
        "algorithm": optional(word),
    },
    may_lack=("family", "max_output_len", "dtype", "algorithm"),
    closed=False,
)
_TOOLCHAIN_LLM = record(
    {
        "tensor_parallel": _RANKS,
        "variables": _VARIABLE,
        "places": mapping_of(inner_path, 16, key=inner_path),
    }
)

_SERVING = record(
    {
        "dtype": _DTYPE,
        "tensor_parallel": _RANKS,
        "max_model_len": _TOKENS,
        "max_sequences": integer(1, 1 << 20),
        "images_per_prompt": integer(1, 1 << 20),
        "max_batched_tokens": integer(1, 1 << 40),
        "generation_config": one_of("obey", "ignore"),
    }
)
_HF_LLM = record(
    {
        "tensor_parallel": integer(1, 1),
        "dtype": _DTYPE,
        "quant_algo": optional(word),
        "max_input_len": _TOKENS,
        "max_output_len": _TOKENS,
        "serving": _SERVING,
    }
)

_SHORT: Mapping[str, Check] = {
    "tensor_parallel": _RANKS,
    "dtype": optional(word),
    "quant_algo": optional(word),
    "variables": record(
        {"dtype": optional(word), "algorithm": optional(word)}, may_lack=("dtype", "algorithm"), closed=False
    ),
}
_SPLIT = record(_SHORT, may_lack=("dtype", "quant_algo", "variables"), closed=False)

_IMAGE_SIDE = integer(1, 1 << 14)
_VISUAL: Mapping[str, Check] = {
    "dtype": _DTYPE,
    "feature_dtype": _DTYPE,
    "max_batch_size": integer(1, 1 << 16),
    "num_visual_features": integer(1, 1 << 20),
    "image_size": list_of(_IMAGE_SIDE, 2, least=2),
}
_SM = integer(1, 10_000)
_TENSORRT: Mapping[str, Check] = {
    "version": text(40, least=1),
    "sm": _SM,
    "hidden_size": integer(1, 1 << 18),
    "engine_bytes": integer(0, 1 << 50),
    "timing_cache": digest,
    "timing_cache_changed": flag,
}
_TORCH_VISUAL = record(_VISUAL)
_TENSORRT_VISUAL = record({**_VISUAL, "backend": one_of("tensorrt"), "tensorrt": record(_TENSORRT)})

_TIE = record(_TENSORRT, may_lack=tuple(name for name in _TENSORRT if name not in ("version", "sm")))
_TIED = record({"tensorrt": optional(_TIE)}, may_lack=("tensorrt",), closed=False)

_TARGET = record(
    {"device": one_of("cpu", "cuda"), "sm": optional(_SM), "isa": optional(word)},
    may_lack=("sm", "isa"),
    closed=False,
)

_DESCRIPTION: Mapping[str, Check] = {
    "family": word,
    "backend": word,
    "llm": mapping_of(any_value, 64),
    "visual": mapping_of(any_value, 64),
    "target": _TARGET,
    "toolchain": mapping_of(word, 1_000, key=word),
    "image_token_id": optional(_ANY_ID),
    "eos_token_ids": list_of(_ANY_ID, 1_000),
    "version": integer(0, 1_000),
    "generation_settings": mapping_of(any_value, 200),
    "settings_not_applied": mapping_of(any_value, 200),
    "obeys_generation_config": flag,
}
_LATER = ("generation_settings", "settings_not_applied", "obeys_generation_config")
_BACKENDS: Mapping[str, tuple[Check, str | None]] = {
    "hf": (_HF_LLM, None),
    "torch": (_TORCH_LLM, "torch"),
    "tensorrt-llm": (_TOOLCHAIN_LLM, "tensorrt-llm"),
}
"""Check of ``llm``, and the required entry of ``toolchain`` if there is one, by backend."""


def description(data: Mapping[str, Any], *, whole_llm: bool = True) -> str | None:
    """A problem with the content of ``engine.json``, or None. ``whole_llm`` False accepts an ``llm`` with only the
    number of ranks, and a toolchain without versions."""
    problem = record(_DESCRIPTION, may_lack=_LATER)(data, "")
    if problem is not None:
        return problem
    if data["backend"] not in _BACKENDS:
        return _of_added_backend(data)
    llm, required = _BACKENDS[data["backend"]]
    if whole_llm and required is not None and required not in data["toolchain"]:
        return f"`toolchain.{required}` is missing"
    if data["backend"] == "torch" and data["target"]["device"] == "cpu" and data["target"].get("isa") is None:
        return "`target.isa` is missing"
    if not whole_llm:
        llm = _SPLIT
    problem = _family(data["family"]) or llm(data["llm"], "llm")
    if problem is not None or data["backend"] != "torch" or not whole_llm:
        return problem
    return _settings(data.get("generation_settings", {}), data["llm"]["llm"]["vocab_size"])


def _of_added_backend(data: Mapping[str, Any]) -> str | None:
    """What is wrong with the description of an engine whose backend checks the rest itself."""
    return one_of(*names())(data["backend"], "backend") or _family(data["family"])


def engine_config(data: Mapping[str, Any]) -> str | None:
    """A problem with ``EngineConfig`` as JSON, or None."""
    return _TORCH_LLM(data, "llm")


def visual_config(data: Mapping[str, Any]) -> str | None:
    """A problem with the content of ``visual.json``, or None."""
    backend = data.get("backend")
    if backend is None:
        return _TORCH_VISUAL(data, "")
    return _TENSORRT_VISUAL(data, "")


def tied(data: Mapping[str, Any]) -> str | None:
    """A problem with the TensorRT version and GPU in a ``visual.json``, or None."""
    return _TIED(data, "")


def _family(name: str) -> str | None:
    from mmbuild.models.families import MODULES

    return None if name in MODULES else wrong(name, "family", f"one of {', '.join(MODULES)}")


def _settings(settings: Mapping[str, Any], vocab_size: int) -> str | None:
    """A problem with the generation settings, checked like those of a model; or None."""
    if not settings:
        return None
    from mmbuild.models.files.generation_fields import FORMS, fields

    for name, value in settings.items():
        row = fields().get(name)
        if row is None:
            return f"`generation_settings.{name[:_SHOWN]}` is not a known setting"
        form = FORMS[row.form] if row.form else None
        if form is not None and not form.fits(value, vocab_size):
            return wrong(value, f"generation_settings.{name}", form.expected)
    return None
