"""``config.json`` of TensorRT-LLM's unified checkpoint (``PretrainedConfig`` in its ``modeling_utils.py``).

Two keys are ours, at the top level because that reader refuses unknown keys inside ``quantization`` only:
``"producer": "mmbuild"`` and ``"layout": "plain"``. TensorRT-LLM permutes weight-only tensors for the GPU
that converts them; ours are not permuted, and the marks keep one from being taken for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmbuild.families.base import LlmFacts

PRODUCER, LAYOUT = "mmbuild", "plain"


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """What a checkpoint holds; :class:`~mmbuild.families.base.LlmFacts` and how it was stored.

    Attributes:
        llm: Sizes of the language model.
        dtype: ``float32``, ``float16`` or ``bfloat16``: of everything but quantized weights.
        tensor_parallel: Number of rank files.
        quant_algo: None, ``W8A16`` or ``W4A16``.
    """

    llm: LlmFacts
    dtype: str
    tensor_parallel: int
    quant_algo: str | None = None


# LlmFacts fields under the same names in config.json. Tying is not among them: the head is always written.
_SAME_NAMES = tuple(name for name in LlmFacts.__dataclass_fields__ if name != "tie_word_embeddings")


def to_json(config: CheckpointConfig) -> dict[str, Any]:
    """The content of ``config.json``."""
    facts = asdict(config.llm)
    tp = config.tensor_parallel
    return {
        **{name: facts[name] for name in _SAME_NAMES},
        "dtype": config.dtype,
        "logits_dtype": "float32",
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "share_embedding_table": False,
        "attn_bias": False,
        "mlp_bias": False,
        "mapping": {"world_size": tp, "tp_size": tp, "pp_size": 1},
        "quantization": {"quant_algo": config.quant_algo, "kv_cache_quant_algo": None},
        "producer": PRODUCER,
        "layout": LAYOUT,
    }


def from_json(content: Mapping[str, Any]) -> CheckpointConfig:
    """Read what :func:`to_json` wrote.

    Raises:
        KeyError: A key is missing.
    """
    return CheckpointConfig(
        llm=LlmFacts(**{name: content[name] for name in _SAME_NAMES}),
        dtype=content["dtype"],
        tensor_parallel=int(content["mapping"]["tp_size"]),
        quant_algo=content["quantization"]["quant_algo"],
    )
