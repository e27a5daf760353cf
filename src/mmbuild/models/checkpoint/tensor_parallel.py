"""Tensor parallelism of TensorRT-LLM's unified checkpoints: which part of a weight each rank holds.

A rule maps sizes and a rank to a :class:`TensorSlice`. Weights are ``[out, in]``. Rows are split if each rank
computes some of the outputs (qkv, fc, gate, head), columns if each rank sums some of the inputs and an all-reduce
follows (dense, proj). If there are fewer key and value heads than ranks, they are duplicated: adjacent ranks share
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmbuild.models.errors import CheckpointError
from mmbuild.models.families.facts import LlmFacts

MAX_RANKS = 8
# Unused rows at the start of the position tables of OPT and mBART.
POSITION_OFFSET = 2


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """Part of a matrix or vector.

    Attributes:
        rows: Half-open range on the first axis; None for all.
        columns: Half-open range on the second axis; None for all.
        padding: Number of rows of zeros to append.
    """

    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    padding: int = 0

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the part, including padding, of a tensor of shape ``whole``."""
        first = (self.rows[1] - self.rows[0] if self.rows else whole[0]) + self.padding
        if self.columns:
            return (first, self.columns[1] - self.columns[0])
        return (first, *whole[1:])


Rule = Callable[[LlmFacts, int, int], TensorSlice]


def replicated(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:  # noqa: ARG001 (all rules have one signature)
    """The whole tensor on every rank."""
    return TensorSlice()


def query_heads(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:
    """Rows of this rank's query heads."""
    return TensorSlice(rows=_range(llm.num_attention_heads * llm.head_size, rank, ranks))


def key_value_heads(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:
    """Rows of this rank's key or value heads; adjacent ranks share a head if there are fewer than ranks."""
    heads = max(1, llm.num_key_value_heads // ranks)
    first = rank * llm.num_key_value_heads // ranks
    return TensorSlice(rows=(first * llm.head_size, (first + heads) * llm.head_size))


def head_columns(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:
    """Columns for this rank's query heads."""
    return TensorSlice(columns=_range(llm.num_attention_heads * llm.head_size, rank, ranks))


def mlp_rows(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:
    """Rows of this rank's part of the MLP."""
    return TensorSlice(rows=_range(llm.intermediate_size, rank, ranks))


def mlp_columns(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:
    """Columns for this rank's part of the MLP."""
    return TensorSlice(columns=_range(llm.intermediate_size, rank, ranks))


def positions(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:  # noqa: ARG001
    """The position table without the offset rows, whole on every rank."""
    return TensorSlice(rows=(POSITION_OFFSET, POSITION_OFFSET + llm.max_position_embeddings))


def table_heads(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:
    """Columns of this rank's heads in a table of relative positions [buckets, heads]."""
    return TensorSlice(columns=_range(llm.num_attention_heads, rank, ranks))


def vocabulary_rows(llm: LlmFacts, rank: int, ranks: int) -> TensorSlice:
    """Rows of this rank's part of the vocabulary, which is zero-padded to a multiple of the ranks."""
    share = -(-llm.vocab_size // ranks)
    first, last = (min(edge, llm.vocab_size) for edge in (rank * share, (rank + 1) * share))
    return TensorSlice(rows=(first, last), padding=share - (last - first))


def check_ranks(llm: LlmFacts, ranks: int) -> None:
    """Check that the model can be split over ``ranks``.

    Raises:
        CheckpointError: MM433, naming the size that cannot be split.
    """
    if not 1 <= ranks <= MAX_RANKS:
        raise _refused(f"tensor_parallel {ranks} is not between 1 and {MAX_RANKS}")
    heads, shared, inner = llm.num_attention_heads, llm.num_key_value_heads, llm.intermediate_size
    if heads % ranks:
        raise _refused(f"{heads} attention heads cannot be split over {ranks} ranks")
    if shared % ranks and ranks % shared:
        raise _refused(f"{shared} key/value heads can neither be split over {ranks} ranks nor shared by them")
    if inner % ranks:
        raise _refused(f"intermediate_size {inner} cannot be split over {ranks} ranks")


def _refused(message: str) -> CheckpointError:
    return CheckpointError(
        message, code="MM433", hint="choose an engine.tensor_parallel that divides the model's heads"
    )


def _range(size: int, rank: int, ranks: int) -> tuple[int, int]:
    share = size // ranks
    return (rank * share, (rank + 1) * share)
