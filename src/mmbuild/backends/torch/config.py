"""Configuration of an LLM engine: the shapes and limits that its packages are compiled for.

``EngineConfig`` is the complete parameter set of ``build_llm`` for the torch backend. It contains no weight values
and no paths, so fine-tuned models of the same shape share one compiled engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmbuild.backends.engine_dir import fields
from mmbuild.models.dtypes import DTYPES
from mmbuild.models.errors import EngineError
from mmbuild.models.families.facts import LlmFacts, read_llm


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Shapes, number formats and limits of one rank of an LLM engine.

    Attributes:
        llm: The language model, or the decoder of an encoder-decoder.
        encoder: The encoder of the language model; None if there is none.
        dtype: Dtype of activations and unquantized weights: ``float32``, ``float16`` or ``bfloat16``.
        quant_algo: ``None``, ``W8A16``, ``W4A16``, or a calibrated one
            (:mod:`mmbuild.models.checkpoint.calibrated_layout`), as in the checkpoint's config.
        tensor_parallel: Number of ranks that the checkpoint is split over.
        max_batch_size: Maximum number of prompts.
        max_beam_width: Maximum number of beams per prompt.
        max_input_len: Maximum length of a prompt in tokens, visual features included.
        max_output_len: Maximum number of generated tokens.
        max_multimodal_len: Rows of the prompt table; with cross-attention to features, rows of one sequence.
        group_size: Inputs that share a scale; None if the quantization has no groups.
    """

    llm: LlmFacts
    encoder: LlmFacts | None
    dtype: str
    quant_algo: str | None
    tensor_parallel: int
    max_batch_size: int
    max_beam_width: int
    max_input_len: int
    max_output_len: int
    max_multimodal_len: int
    group_size: int | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as a torch dtype."""
        return DTYPES[self.dtype]

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary: smaller ids are tokens, others are rows of the prompt table."""
        return self.llm.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of visual features and of the residual stream."""
        return self.llm.hidden_size

    @property
    def sequences(self) -> int:
        """Maximum number of sequences decoded together: all beams of all prompts."""
        return self.max_batch_size * self.max_beam_width

    @property
    def prompt_len(self) -> int:
        """Maximum prompt length of the decoder; the decoder of an encoder-decoder starts from one token."""
        return 1 if self.llm.cross_attention else self.max_input_len

    @property
    def max_seq_len(self) -> int:
        """Slots of the KV cache of one sequence."""
        return self.prompt_len + self.max_output_len

    @property
    def cross_len(self) -> int:
        """Slots of the cross-attention cache of one sequence; 0 without cross-attention."""
        if not self.llm.cross_attention:
            return 0
        return self.max_input_len if self.encoder else self.max_multimodal_len

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes per token in this rank's KV cache, over all layers."""
        heads = local_kv_heads(self.llm, self.tensor_parallel)
        return 2 * heads * self.llm.head_size * self.torch_dtype.itemsize * self.llm.num_hidden_layers

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of :func:`from_json`; omits ``group_size`` if it is None."""
        data = dataclasses.asdict(self)
        return data if self.group_size is not None else {k: v for k, v in data.items() if k != "group_size"}


def local_heads(llm: LlmFacts, ranks: int) -> int:
    """Number of query heads on one rank."""
    return llm.num_attention_heads // ranks


def local_kv_heads(llm: LlmFacts, ranks: int) -> int:
    """Number of key and value heads on one rank; they are duplicated if there are fewer than ranks."""
    return max(1, llm.num_key_value_heads // ranks)


def from_json(data: Mapping[str, Any]) -> EngineConfig:
    """Parse the result of :meth:`EngineConfig.to_json`.

    Raises:
        EngineError: MM501, a key is missing or unknown, or a value has the wrong type or is out of range.
    """
    problem = fields.engine_config(data)
    if problem is not None:
        raise EngineError(
            f"invalid engine config: {problem}",
            code="MM501",
            hint="the engine was built by another version of mmbuild, or edited; apply its recipe again",
        )
    llm = read_llm(data["llm"])
    assert llm is not None
    return EngineConfig(**{**data, "llm": llm, "encoder": read_llm(data["encoder"])})
