"""Which rows a call computes, and where its sequences lie in them."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.torch.row_spans import in_order, placement, sizes, spans

ROWS = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)


@given(ROWS)
def test_spans_cover_the_rows_and_no_others(rows):
    found = spans(rows)
    assert [rows[place] for places, _ in found for place in places] == sorted(rows)
    assert sorted(row for _, span in found for row in range(*span)) == sorted(rows)
    assert all(later[0] > span[1] for (_, span), (_, later) in pairwise(found))


@given(ROWS)
def test_results_of_spans_come_in_the_order_of_the_rows(rows):
    found = spans(rows)
    parts = [torch.tensor(range(*span)) for _, span in found]
    assert in_order(parts, found).tolist() == rows


@given(ROWS, st.booleans(), st.integers(0, 30))
def test_tokens_are_at_their_rows_and_results_in_their_order(rows, padded, more):
    sequences = max(rows) + 1 + more
    placed = placement(tuple(rows), sequences, "cpu", padded=padded)
    tokens = torch.arange(1, len(rows) + 1)
    spread = placed.spread(tokens)
    assert len(spread) == placed.size
    assert {row: token for row, token in zip(range(*placed.span), spread.tolist(), strict=True) if token} == (
        dict(zip(rows, tokens.tolist(), strict=True))
    )
    assert placed.gather(spread).tolist() == tokens.tolist()
    assert 0 <= placed.span[0] < placed.span[1] <= sequences


@given(st.integers(1, 100), st.data())
def test_on_cuda_there_are_few_ranges_that_several_sequences_are_computed_in(sequences, data):
    rows = data.draw(st.lists(st.integers(0, sequences - 1), min_size=1, unique=True))
    placed = placement(tuple(rows), sequences, "cpu", padded=True)
    assert len(rows) == 1 or (placed.span[0] == 0 and placed.size in sizes(sequences))


def test_sizes_are_powers_of_two_and_the_most():
    assert [sizes(most) for most in (1, 2, 3, 8, 12)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 8],
        [1, 2, 4, 8, 12],
    ]
