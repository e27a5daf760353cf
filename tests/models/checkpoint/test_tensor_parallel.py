from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.models.checkpoint import tensor_parallel
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families.facts import LlmFacts


def facts(
    heads: int = 4, shared: int = 2, head_size: int = 8, inner: int = 48, vocabulary: int = 50
) -> LlmFacts:
    return LlmFacts(
        architecture="LlamaForCausalLM",
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        head_size=head_size,
        intermediate_size=inner,
        hidden_act="silu",
        norm_epsilon=1e-5,
        max_position_embeddings=64,
        position_embedding_type="rope_gpt_neox",
    )


ranks = st.sampled_from([1, 2, 4, 8])


@st.composite
def divisible(draw: st.DrawFn) -> tuple[LlmFacts, int]:
    """Sizes that split, grouped-query attention with fewer heads than ranks among them."""
    ways = draw(ranks)
    shared = draw(st.sampled_from([n for n in (1, 2, 4, 8, 16) if n % ways == 0 or ways % n == 0]))
    group = max(1, ways // shared) * draw(st.integers(1, 3))
    llm = facts(
        heads=shared * group,
        shared=shared,
        head_size=draw(st.integers(1, 9)),
        inner=ways * draw(st.integers(1, 20)),
        vocabulary=draw(st.integers(8, 70)),
    )
    return llm, ways


@given(divisible())
def test_ranks_partition_query_heads_mlp_and_columns(case: tuple[LlmFacts, int]) -> None:
    llm, ways = case
    tensor_parallel.check_ranks(llm, ways)
    for rule, axis, size in (
        (tensor_parallel.query_heads, "rows", llm.num_attention_heads * llm.head_size),
        (tensor_parallel.head_columns, "columns", llm.num_attention_heads * llm.head_size),
        (tensor_parallel.mlp_rows, "rows", llm.intermediate_size),
        (tensor_parallel.mlp_columns, "columns", llm.intermediate_size),
    ):
        ranges = [getattr(rule(llm, rank, ways), axis) for rank in range(ways)]
        assert [i for first, last in ranges for i in range(first, last)] == list(range(size))


@given(divisible())
def test_a_rank_holds_exactly_the_key_value_heads_that_its_query_heads_use(
    case: tuple[LlmFacts, int],
) -> None:
    llm, ways = case
    group = llm.num_attention_heads // llm.num_key_value_heads
    local = llm.num_attention_heads // ways
    for rank in range(ways):
        used = sorted({head // group for head in range(rank * local, (rank + 1) * local)})
        first, last = tensor_parallel.key_value_heads(llm, rank, ways).rows
        assert list(range(first, last)) == [h * llm.head_size + i for h in used for i in range(llm.head_size)]


@given(divisible())
def test_the_vocabulary_is_split_evenly_with_zeros_at_the_end(case: tuple[LlmFacts, int]) -> None:
    llm, ways = case
    cuts = [tensor_parallel.vocabulary_rows(llm, rank, ways) for rank in range(ways)]
    shapes = {cut.shape((llm.vocab_size, 3)) for cut in cuts}
    assert shapes == {(-(-llm.vocab_size // ways), 3)}
    assert [i for cut in cuts for i in range(*cut.rows)] == list(range(llm.vocab_size))


@pytest.mark.parametrize(
    ("changes", "ways", "words"),
    [
        ({}, 3, "4 attention heads"),
        ({}, 0, "not between 1 and 8"),
        ({"num_attention_heads": 16}, 16, "not between 1 and 8"),
        ({"num_attention_heads": 12, "num_key_value_heads": 3}, 2, "3 key/value heads"),
        ({"intermediate_size": 49}, 2, "intermediate_size 49"),
    ],
)
def test_what_does_not_divide_is_refused(changes: dict[str, int], ways: int, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        tensor_parallel.check_ranks(replace(facts(), **changes), ways)
    assert caught.value.code == "MM433"
