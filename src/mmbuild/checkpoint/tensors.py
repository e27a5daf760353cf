"""The tensors of TensorRT-LLM's unified LLaMA checkpoint and where each comes from.

Names, shapes and splits after ``tensorrt_llm/models/llama/convert.py``. Mind the MLP: the checkpoint's ``fc``
is Hugging Face's ``gate_proj`` and its ``gate`` is ``up_proj``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmbuild.checkpoint import split
from mmbuild.checkpoint.split import Rule
from mmbuild.families.base import LlmFacts


@dataclass(frozen=True, slots=True)
class Part:
    """One Hugging Face tensor that a checkpoint tensor is made of.

    Attributes:
        source: Name below the decoder's prefix (``layers.0.self_attn.q_proj.weight``), or ``lm_head.weight``.
        rule: Which part of it a rank holds.
        shape: Its shape in the model.
    """

    source: str
    rule: Rule
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the checkpoint: the parts of a rank, one after the other on the first axis.

    Attributes:
        name: Name in the checkpoint.
        parts: What it is made of.
        quantizable: Whether weight-only quantization applies.
    """

    name: str
    parts: tuple[Part, ...]
    quantizable: bool = False

    def shape(self, llm: LlmFacts, rank: int, ranks: int) -> tuple[int, ...]:
        """Shape of this rank's tensor."""
        shapes = [part.rule(llm, rank, ranks).shape(part.shape) for part in self.parts]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


HEAD = "lm_head.weight"
EMBEDDING = "embed_tokens.weight"

_Row = tuple[str, tuple[tuple[str, Rule, str], ...], bool]

# name in the checkpoint, ((Hugging Face name, rule, shape), ...), quantizable.
# Letters of a shape: H hidden, Q query heads x head size, K key/value heads x head size, I intermediate,
# V vocabulary.
_LAYER: tuple[_Row, ...] = (
    ("input_layernorm.weight", (("input_layernorm.weight", split.replicated, "H"),), False),
    (
        "attention.qkv.weight",
        (
            ("self_attn.q_proj.weight", split.query_heads, "QH"),
            ("self_attn.k_proj.weight", split.key_value_heads, "KH"),
            ("self_attn.v_proj.weight", split.key_value_heads, "KH"),
        ),
        True,
    ),
    ("attention.dense.weight", (("self_attn.o_proj.weight", split.head_columns, "HQ"),), True),
    ("post_layernorm.weight", (("post_attention_layernorm.weight", split.replicated, "H"),), False),
    ("mlp.fc.weight", (("mlp.gate_proj.weight", split.mlp_rows, "IH"),), True),
    ("mlp.gate.weight", (("mlp.up_proj.weight", split.mlp_rows, "IH"),), True),
    ("mlp.proj.weight", (("mlp.down_proj.weight", split.mlp_columns, "HI"),), True),
)
_BEFORE: tuple[_Row, ...] = (
    ("transformer.vocab_embedding.weight", ((EMBEDDING, split.replicated, "VH"),), False),
)
_AFTER: tuple[_Row, ...] = (
    ("transformer.ln_f.weight", (("norm.weight", split.replicated, "H"),), False),
    (HEAD, ((HEAD, split.vocabulary_rows, "VH"),), False),
)


def llama_tensors(llm: LlmFacts) -> Iterator[TensorSpec]:
    """Every tensor of the checkpoint, in the order of the forward pass."""
    sizes = {
        "H": llm.hidden_size,
        "Q": llm.num_attention_heads * llm.head_size,
        "K": llm.num_key_value_heads * llm.head_size,
        "I": llm.intermediate_size,
        "V": llm.vocab_size,
    }

    def spec(row: _Row, to: str = "", source: str = "") -> TensorSpec:
        name, parts, quantizable = row
        made = (Part(source + hf, rule, tuple(sizes[s] for s in shape)) for hf, rule, shape in parts)
        return TensorSpec(to + name, tuple(made), quantizable)

    yield from (spec(row) for row in _BEFORE)
    for i in range(llm.num_hidden_layers):
        yield from (spec(row, f"transformer.layers.{i}.", f"layers.{i}.") for row in _LAYER)
    yield from (spec(row) for row in _AFTER)
