"""Tables of the tensors in TensorRT-LLM's unified checkpoints and their source tensors.

There is one table per architecture, with names, shapes and splits as in ``convert_checkpoint.py`` of
``examples/llama``, ``examples/opt`` and ``examples/enc_dec`` (0.11 and later). Three details are easy to miss: the
gated MLP's ``fc`` is Hugging Face's ``gate_proj`` (T5: ``wi_0``) and its ``gate`` is ``up_proj`` (``wi_1``); OPT and
mBART have two offset rows at the start of their position tables; T5 has one table of relative positions, in its first
layer, which the checkpoint repeats in every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from mmbuild.models.checkpoint import tensor_parallel
from mmbuild.models.checkpoint.tensor_parallel import Rule
from mmbuild.models.families.facts import LlmFacts, Naming


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A Hugging Face tensor that is part of a checkpoint tensor.

    Attributes:
        source: Name below the model's prefix (``layers.0.self_attn.q_proj.weight``), or :data:`HEAD`.
        rule: Selects the part for a rank.
        shape: Its shape in the model.
        transposed: Whether the checkpoint holds the part's transpose.
    """

    source: str
    rule: Rule
    shape: tuple[int, ...]
    transposed: bool = False

    def cut_shape(self, llm: LlmFacts, rank: int, ranks: int) -> tuple[int, ...]:
        """Shape of a rank's part in the checkpoint."""
        shape = self.rule(llm, rank, ranks).shape(self.shape)
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of the checkpoint: a rank's parts, concatenated on the first axis.

    Attributes:
        name: Name in the checkpoint.
        parts: Its source tensors.
        quantizable: Whether weight-only quantization applies.
    """

    name: str
    parts: tuple[SourceTensor, ...]
    quantizable: bool = False

    def shape(self, llm: LlmFacts, rank: int, ranks: int) -> tuple[int, ...]:
        """Shape of this rank's tensor."""
        shapes = [part.cut_shape(llm, rank, ranks) for part in self.parts]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


HEAD = "lm_head.weight"
SHARED_WORDS = "shared.weight"
"""T5's embedding table of both stacks."""
ENCODER_WORDS = "encoder.embed_tokens.weight"
"""A copy of it."""
DECODER_WORDS = "decoder.embed_tokens.weight"
"""T5's embedding table of the decoder, which the weights hold only where it may differ from the shared one."""


def full_name(naming: Naming, source: str) -> str:
    """Full name of a source tensor."""
    return naming.head if source == HEAD else naming.prefix + source


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a table.

    Attributes:
        name: Name in the checkpoint; ``{i}`` is the layer.
        sources: ``(Hugging Face name, rule, shape)``. Letters of a shape: H hidden, Q query heads x head size,
            K key/value heads x head size, I intermediate, V vocabulary, P positions, O positions with offset rows,
            B buckets, N heads.
        when: Whether the model has it.
        linear: Whether it is the weight of a linear layer, which weight-only quantization stores as integers.
        transposed: Whether the checkpoint holds the transpose.
    """

    name: str
    sources: tuple[tuple[str, Rule, str], ...]
    when: Callable[[LlmFacts], bool] = lambda _llm: True
    linear: bool = False
    transposed: bool = False


def _row(name: str, source: str, rule: Rule, shape: str, **rest: bool) -> _Row:
    return _Row(name, ((source, rule, shape),), **rest)  # type: ignore[arg-type]


def _norm(name: str, source: str, *, bias: bool) -> tuple[_Row, ...]:
    kinds = ("weight", "bias") if bias else ("weight",)
    return tuple(
        _row(f"{name}.{kind}", f"{source}.{kind}", tensor_parallel.replicated, "H") for kind in kinds
    )


def _qkv(name: str, sources: tuple[str, str, str], *, bias: bool) -> tuple[_Row, ...]:
    rules = (tensor_parallel.query_heads, tensor_parallel.key_value_heads, tensor_parallel.key_value_heads)
    kinds = (("weight", "QH", "KH"), ("bias", "Q", "K")) if bias else (("weight", "QH", "KH"),)
    return tuple(
        _Row(
            f"{name}.{kind}",
            tuple(
                (f"{source}.{kind}", rule, shape)
                for source, rule, shape in zip(sources, rules, (query, key, key), strict=True)
            ),
            linear=kind == "weight",
        )
        for kind, query, key in kinds
    )


def _linear(name: str, source: str, rule: Rule, shape: str, *, bias: bool) -> tuple[_Row, ...]:
    """A linear layer; its bias is split with the rows; if columns are split, every rank has the whole bias."""
    rows = (_row(f"{name}.weight", f"{source}.weight", rule, shape, linear=True),)
    if not bias:
        return rows
    cut = (
        tensor_parallel.replicated
        if rule in (tensor_parallel.head_columns, tensor_parallel.mlp_columns)
        else rule
    )
    return (*rows, _row(f"{name}.bias", f"{source}.bias", cut, shape[0]))


def _attention(
    name: str, source: str, parts: tuple[str, str, str, str], *, bias: bool = False
) -> tuple[_Row, ...]:
    query, key, value, out = (f"{source}.{part}" for part in parts)
    return (
        *_qkv(f"{name}.qkv", (query, key, value), bias=bias),
        *_linear(f"{name}.dense", out, tensor_parallel.head_columns, "HQ", bias=bias),
    )


def _head(name: str) -> _Row:
    return _row(name, HEAD, tensor_parallel.vocabulary_rows, "VH")


def _embedding(name: str, source: str) -> _Row:
    return _row(name, source, tensor_parallel.replicated, "VH")


_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA = (
    _embedding("transformer.vocab_embedding.weight", "embed_tokens.weight"),
    *_norm("transformer.layers.{i}.input_layernorm", "layers.{i}.input_layernorm", bias=False),
    *_attention("transformer.layers.{i}.attention", "layers.{i}.self_attn", _PROJECTIONS),
    *_norm("transformer.layers.{i}.post_layernorm", "layers.{i}.post_attention_layernorm", bias=False),
    *_linear(
        "transformer.layers.{i}.mlp.fc",
        "layers.{i}.mlp.gate_proj",
        tensor_parallel.mlp_rows,
        "IH",
        bias=False,
    ),
    *_linear(
        "transformer.layers.{i}.mlp.gate",
        "layers.{i}.mlp.up_proj",
        tensor_parallel.mlp_rows,
        "IH",
        bias=False,
    ),
    *_linear(
        "transformer.layers.{i}.mlp.proj",
        "layers.{i}.mlp.down_proj",
        tensor_parallel.mlp_columns,
        "HI",
        bias=False,
    ),
    *_norm("transformer.ln_f", "norm", bias=False),
    _head(HEAD),
)


def _final(row: _Row) -> _Row:
    """``row``, for models with a norm after the last layer."""
    return _Row(row.name, row.sources, when=lambda llm: llm.has_model_final_layernorm)


_OUT_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
_OPT = (
    _embedding("transformer.vocab_embedding.weight", "embed_tokens.weight"),
    _row("transformer.position_embedding.weight", "embed_positions.weight", tensor_parallel.positions, "OH"),
    *_norm("transformer.layers.{i}.input_layernorm", "layers.{i}.self_attn_layer_norm", bias=True),
    *_attention("transformer.layers.{i}.attention", "layers.{i}.self_attn", _OUT_PROJECTIONS, bias=True),
    *_norm("transformer.layers.{i}.post_layernorm", "layers.{i}.final_layer_norm", bias=True),
    *_linear("transformer.layers.{i}.mlp.fc", "layers.{i}.fc1", tensor_parallel.mlp_rows, "IH", bias=True),
    *_linear(
        "transformer.layers.{i}.mlp.proj", "layers.{i}.fc2", tensor_parallel.mlp_columns, "HI", bias=True
    ),
    *map(_final, _norm("transformer.ln_f", "final_layer_norm", bias=True)),
    _head(HEAD),
)

_T5_PROJECTIONS = ("q", "k", "v", "o")


def _has_mlp(mlp_type: str, llm: LlmFacts) -> bool:
    return llm.mlp_type == mlp_type


def _t5_mlp(name: str, source: str) -> Iterator[_Row]:
    for part, required, mlp_type in (
        ("fc", "wi_0", "GatedMLP"),
        ("gate", "wi_1", "GatedMLP"),
        ("fc", "wi", "MLP"),
    ):
        yield _Row(
            f"{name}.{part}.weight",
            ((f"{source}.{required}.weight", tensor_parallel.mlp_rows, "IH"),),
            when=partial(_has_mlp, mlp_type),
            linear=True,
        )
    yield from _linear(f"{name}.proj", f"{source}.wo", tensor_parallel.mlp_columns, "HI", bias=False)


def _t5(component: str) -> tuple[_Row, ...]:
    layer, own = f"{component}_layers.{{i}}", "attention" if component == "encoder" else "self_attention"
    block = f"{component}.block.{{i}}.layer"
    table = f"{component}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    cross = (
        *_attention(f"{layer}.cross_attention", f"{block}.1.EncDecAttention", _T5_PROJECTIONS),
        *_norm(f"{layer}.cross_attention_layernorm", f"{block}.1.layer_norm", bias=False),
    )
    last = 1 if component == "encoder" else 2
    return (
        _embedding(
            "embedding.vocab_embedding.weight", DECODER_WORDS if component == "decoder" else SHARED_WORDS
        ),
        *_attention(f"{layer}.{own}", f"{block}.0.SelfAttention", _T5_PROJECTIONS),
        _row(f"{layer}.{own}.rel_attn_table", table, tensor_parallel.table_heads, "BN", transposed=True),
        *_norm(f"{layer}.{own}_layernorm", f"{block}.0.layer_norm", bias=False),
        *(cross if component == "decoder" else ()),
        *_t5_mlp(f"{layer}.mlp", f"{block}.{last}.DenseReluDense"),
        *_norm(f"{layer}.mlp_layernorm", f"{block}.{last}.layer_norm", bias=False),
        *_norm("final_layernorm", f"{component}.final_layer_norm", bias=False),
        *(
            (_row("rel_attn_table", table, tensor_parallel.table_heads, "BN", transposed=True), _head(HEAD))
            if component == "decoder"
            else ()
        ),
    )


_MBART_DECODER = (
    _embedding("embedding.vocab_embedding.weight", "embed_tokens.weight"),
    _row("embedding.position_embedding.weight", "embed_positions.weight", tensor_parallel.positions, "OH"),
    *_norm("embedding.embedding_layernorm", "layernorm_embedding", bias=True),
    *_attention("decoder_layers.{i}.self_attention", "layers.{i}.self_attn", _OUT_PROJECTIONS, bias=True),
    *_norm("decoder_layers.{i}.self_attention_layernorm", "layers.{i}.self_attn_layer_norm", bias=True),
    *_attention("decoder_layers.{i}.cross_attention", "layers.{i}.encoder_attn", _OUT_PROJECTIONS, bias=True),
    *_norm("decoder_layers.{i}.cross_attention_layernorm", "layers.{i}.encoder_attn_layer_norm", bias=True),
    *_linear("decoder_layers.{i}.mlp.fc", "layers.{i}.fc1", tensor_parallel.mlp_rows, "IH", bias=True),
    *_linear("decoder_layers.{i}.mlp.proj", "layers.{i}.fc2", tensor_parallel.mlp_columns, "HI", bias=True),
    *_norm("decoder_layers.{i}.mlp_layernorm", "layers.{i}.final_layer_norm", bias=True),
    *map(_final, _norm("final_layernorm", "layer_norm", bias=True)),
    _head(HEAD),
)

# By architecture and kind of positions, which distinguishes T5's decoder from mBART's.
_TABLES: Mapping[tuple[str, str], tuple[_Row, ...]] = {
    ("LlamaForCausalLM", "rope_gpt_neox"): _LLAMA,
    ("OPTForCausalLM", "learned_absolute"): _OPT,
    ("EncoderModel", "relative"): _t5("encoder"),
    ("DecoderModel", "relative"): _t5("decoder"),
    ("DecoderModel", "learned_absolute"): _MBART_DECODER,
}


def tensors(llm: LlmFacts) -> Iterator[TensorSpec]:
    """All tensors of the checkpoint of ``llm``, in the order of the forward pass."""
    sizes = {
        "H": llm.hidden_size,
        "Q": llm.num_attention_heads * llm.head_size,
        "K": llm.num_key_value_heads * llm.head_size,
        "I": llm.intermediate_size,
        "V": llm.vocab_size,
        "P": llm.max_position_embeddings,
        "O": llm.max_position_embeddings + tensor_parallel.POSITION_OFFSET,
        "B": llm.num_buckets,
        "N": llm.num_attention_heads,
    }

    def spec(row: _Row, layer: int = 0) -> TensorSpec:
        parts = (
            SourceTensor(
                source.format(i=layer), rule, tuple(sizes[letter] for letter in shape), row.transposed
            )
            for source, rule, shape in row.sources
        )
        return TensorSpec(row.name.format(i=layer), tuple(parts), row.linear)

    rows = [row for row in _TABLES[llm.architecture, llm.position_embedding_type] if row.when(llm)]
    layered = [row for row in rows if "{i}" in row.name]
    first = rows.index(layered[0])
    yield from (spec(row) for row in rows[:first])
    for layer in range(llm.num_hidden_layers):
        yield from (spec(row, layer) for row in layered)
    yield from (spec(row) for row in rows[first + len(layered) :])
