"""``config.json`` of TensorRT-LLM's unified checkpoint (``PretrainedConfig`` in its ``modeling_utils.py``).

mmbuild adds two keys, ``"producer": "mmbuild"`` and ``"layout": "plain"``, at the top level, because upstream's
reader rejects unknown keys only in ``quantization``. TensorRT-LLM permutes weight-only tensors for the GPU that
converts them; mmbuild does not, and these keys distinguish the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmbuild.models.checkpoint.calibrated_layout import quantization_json
from mmbuild.models.families.facts import LlmFacts

PRODUCER, LAYOUT = "mmbuild", "plain"


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Config of a checkpoint: :class:`~mmbuild.models.families.facts.LlmFacts` and the storage format.

    Attributes:
        llm: Sizes of the language model.
        dtype: Dtype of everything except quantized weights: ``float32``, ``float16`` or ``bfloat16``.
        tensor_parallel: Number of rank files.
        quant_algo: None, ``W8A16``, ``W4A16``, or one of :mod:`mmbuild.models.checkpoint.calibrated_layout`.
        group_size: Inputs that share a scale; None if the quantization has no groups.
    """

    llm: LlmFacts
    dtype: str
    tensor_parallel: int
    quant_algo: str | None = None
    group_size: int | None = None


# Not in config.json: the head is always written, so no checkpoint has tied embeddings.
_UNSAVED = ("tie_word_embeddings",)
# TensorRT-LLM's enumerations (tensorrt_llm/functional.py), which encoder-decoder configs store as numbers.
_NUMBERED: Mapping[str, tuple[str, ...]] = {
    "layernorm_type": ("LayerNorm", "RmsNorm", "GroupNorm"),
    "layernorm_position": ("pre_layernorm", "post_layernorm"),
    "mlp_type": ("MLP", "GatedMLP", "FusedGatedMLP"),
}
_FIELDS = tuple(name for name in LlmFacts.__dataclass_fields__ if name not in _UNSAVED)


def components(llm: LlmFacts, encoder: LlmFacts | None) -> Mapping[str, LlmFacts]:
    """Subdirectories of a model's checkpoint and their contents: ``.``, or ``encoder`` and ``decoder``."""
    if not llm.cross_attention:
        return {".": llm}
    return {"decoder": llm} if encoder is None else {"encoder": encoder, "decoder": llm}


def to_json(config: CheckpointConfig) -> dict[str, Any]:
    """The content of ``config.json``."""
    llm, tp = config.llm, config.tensor_parallel
    facts = {name: value for name, value in asdict(llm).items() if name in _FIELDS}
    facts |= {name: values.index(facts[name]) for name, values in _NUMBERED.items()}
    return {
        **facts,
        "rotary_scaling": _both_spellings(llm.rotary_scaling),
        "max_position_embeddings": _T5_POSITIONS if _is_relative(llm) else llm.max_position_embeddings,
        **_by_architecture(llm),
        "dtype": config.dtype,
        "logits_dtype": "float32",
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "share_embedding_table": False,
        "mapping": {"world_size": tp, "tp_size": tp, "pp_size": 1},
        "quantization": quantization_json(config.quant_algo, config.group_size),
        "producer": PRODUCER,
        "layout": LAYOUT,
    }


# T5Config's n_positions. Upstream's converter writes it, although T5's positions are relative and unlimited; with 0
# the builder of 0.12 rejects every length.
_T5_POSITIONS = 512


def _is_relative(llm: LlmFacts) -> bool:
    return llm.position_embedding_type == "relative"


def _both_spellings(scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """State the kind as both ``rope_type`` and ``type``; versions before 1.2 read only ``type``."""
    return None if scaling is None else {**scaling, "type": scaling.get("rope_type", scaling.get("type"))}


def _one_spelling(scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The inverse of :func:`_both_spellings`."""
    if scaling is None or "rope_type" not in scaling:
        return None if scaling is None else dict(scaling)
    return {name: value for name, value in scaling.items() if name != "type"}


def _by_architecture(llm: LlmFacts) -> dict[str, Any]:
    """Fields that TensorRT-LLM's configs have under other names, or twice."""
    if llm.architecture == "LlamaForCausalLM":
        return {"attn_bias": llm.has_attention_qkvo_bias, "mlp_bias": llm.has_mlp_bias}
    if llm.architecture == "OPTForCausalLM":
        return {"do_layer_norm_before": llm.layernorm_position == "pre_layernorm"}
    relative = _is_relative(llm)
    return {
        "model_type": "t5" if relative else "bart",
        "has_position_embedding": not relative,
        "has_token_type_embedding": False,
        "relative_attention": relative,
        "use_implicit_relative_attention": False,
        "ffn_hidden_size": llm.intermediate_size,
        "gated_act": llm.mlp_type == "GatedMLP",
        "encoder_hidden_size": llm.hidden_size,
        "encoder_num_heads": llm.num_attention_heads,
        "encoder_head_size": llm.head_size,
        "skip_cross_qkv": False,
    }


def from_json(content: Mapping[str, Any]) -> CheckpointConfig:
    """Parse the result of :func:`to_json`.

    Raises:
        KeyError: A key is missing.
    """
    facts = {name: content[name] for name in _FIELDS}
    facts |= {name: values[facts[name]] for name, values in _NUMBERED.items()}
    facts["rotary_scaling"] = _one_spelling(facts["rotary_scaling"])
    if facts["position_embedding_type"] == "relative":
        facts["max_position_embeddings"] = 0
    return CheckpointConfig(
        llm=LlmFacts(**facts),
        dtype=content["dtype"],
        tensor_parallel=int(content["mapping"]["tp_size"]),
        quant_algo=content["quantization"]["quant_algo"],
        group_size=content["quantization"].get("group_size"),
    )
