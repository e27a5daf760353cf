"""What an LLM engine is built for: the shapes and limits that its packages are compiled to.

``EngineConfig`` is the whole parameter set of ``build_llm`` for the torch backend. It holds no weight values
and no path, so fine-tunes of one shape share one compiled engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmbuild.errors import MmbuildError


class EngineError(MmbuildError):
    """An engine that cannot be built, loaded or asked what it was asked."""


DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Shapes, numbers and limits of one rank of an LLM engine.

    Attributes:
        architecture: TensorRT-LLM's name (``LlamaForCausalLM``).
        dtype: Of activations and unquantized weights: ``float32``, ``float16`` or ``bfloat16``.
        quant_algo: ``None``, ``W8A16`` or ``W4A16``, as in the checkpoint's config.
        tensor_parallel: Number of ranks the checkpoint is split over.
        max_batch_size: Sequences decoded together.
        max_input_len: Tokens of one prompt, visual features included.
        max_output_len: Tokens generated after the prompt.
        max_multimodal_len: Rows of the prompt table.
    """

    architecture: str
    dtype: str
    quant_algo: str | None
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    intermediate_size: int
    hidden_act: str
    norm_epsilon: float
    position_embedding_type: str
    rotary_base: float | None
    rotary_scaling: Mapping[str, Any] | None
    tensor_parallel: int
    max_batch_size: int
    max_input_len: int
    max_output_len: int
    max_multimodal_len: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch knows it."""
        return DTYPES[self.dtype]

    @property
    def max_seq_len(self) -> int:
        """Slots of the KV cache of one sequence."""
        return self.max_input_len + self.max_output_len

    @property
    def local_heads(self) -> int:
        """Query heads of one rank."""
        return self.num_attention_heads // self.tensor_parallel

    @property
    def local_kv_heads(self) -> int:
        """Key and value heads of one rank; duplicated where there are fewer than ranks."""
        return max(1, self.num_key_value_heads // self.tensor_parallel)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token takes in this rank's KV cache, all layers."""
        per_layer = 2 * self.local_kv_heads * self.head_size * self.torch_dtype.itemsize
        return per_layer * self.num_hidden_layers

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of :func:`from_json`."""
        return dataclasses.asdict(self)


def from_json(data: Mapping[str, Any]) -> EngineConfig:
    """Read what :meth:`EngineConfig.to_json` wrote.

    Raises:
        EngineError: A key is missing or unknown.
    """
    names = {field.name for field in dataclasses.fields(EngineConfig)}
    if set(data) != names:
        odd = ", ".join(f"`{key}`" for key in sorted(names ^ set(data)))
        raise EngineError(
            f"the engine config has missing or unknown keys: {odd}",
            code="MM501",
            hint="The engine was written by another version of mmbuild; apply its recipe again",
        )
    return EngineConfig(**data)
