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

from mmbuild.backends.engine_dir import fields
from mmbuild.models.dtypes import DTYPES
from mmbuild.models.errors import EngineError
from mmbuild.models.families.facts import LlmFacts, read_llm


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Shapes, numbers and limits of one rank of an LLM engine.

    Attributes:
        llm: The language model; of an encoder-decoder, its decoder.
        encoder: The language model's own encoder, None where there is none.
        dtype: Of activations and unquantized weights: ``float32``, ``float16`` or ``bfloat16``.
        quant_algo: ``None``, ``W8A16``, ``W4A16``, or a calibrated one
            (:mod:`mmbuild.models.checkpoint.calibrated_layout`), as in the checkpoint's config.
        tensor_parallel: Number of ranks the checkpoint is split over.
        max_batch_size: Prompts answered together.
        max_beam_width: Sequences kept for each prompt.
        max_input_len: Tokens of one prompt, visual features included.
        max_output_len: Tokens generated after the prompt.
        max_multimodal_len: Rows of the prompt table; where features go to cross-attention, those of one sequence.
        group_size: Inputs that share a scale; None where the quantization has no groups.
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
        """The dtype as torch knows it."""
        return DTYPES[self.dtype]

    @property
    def vocab_size(self) -> int:
        """Ids below it are tokens, the others rows of the prompt table."""
        return self.llm.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of visual features and of the residual stream."""
        return self.llm.hidden_size

    @property
    def sequences(self) -> int:
        """Sequences decoded together at most: every beam of every prompt."""
        return self.max_batch_size * self.max_beam_width

    @property
    def prompt_len(self) -> int:
        """Tokens that the decoder is prompted with at most; an encoder-decoder's starts from one."""
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
        """Bytes that one token takes in this rank's KV cache, all layers."""
        heads = local_kv_heads(self.llm, self.tensor_parallel)
        return 2 * heads * self.llm.head_size * self.torch_dtype.itemsize * self.llm.num_hidden_layers

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of :func:`from_json`; without groups no word of them."""
        data = dataclasses.asdict(self)
        return data if self.group_size is not None else {k: v for k, v in data.items() if k != "group_size"}


def local_heads(llm: LlmFacts, ranks: int) -> int:
    """Query heads of one rank."""
    return llm.num_attention_heads // ranks


def local_kv_heads(llm: LlmFacts, ranks: int) -> int:
    """Key and value heads of one rank; duplicated where there are fewer than ranks."""
    return max(1, llm.num_key_value_heads // ranks)


def from_json(data: Mapping[str, Any]) -> EngineConfig:
    """Read what :meth:`EngineConfig.to_json` wrote.

    Raises:
        EngineError: MM501, a key is missing or unknown, or a value of another type or out of range.
    """
    problem = fields.engine_config(data)
    if problem is not None:
        raise EngineError(
            f"the engine config cannot be used: {problem}",
            code="MM501",
            hint="The engine was written by another version of mmbuild, or edited; apply its recipe again",
        )
    llm = read_llm(data["llm"])
    assert llm is not None
    return EngineConfig(**{**data, "llm": llm, "encoder": read_llm(data["encoder"])})
