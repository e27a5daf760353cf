"""Sampling keeps what it says, and draws the same for the same seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.torch.sampling import Sampler, Sampling, distribution
from mmbuild.base.errors import UsageError
from support.errors import refused

VALUES = st.floats(-30, 30, allow_nan=False, width=32)
ROWS = st.integers(2, 24).flatmap(
    lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1, max_size=4)
)
TEMPERATURES = st.floats(0.05, 5.0)


@given(ROWS, TEMPERATURES, st.integers(0, 30), st.floats(0, 1.0, exclude_min=True))
def test_rows_sum_to_one_and_keep_the_likeliest(rows, temperature, top_k, top_p):
    logits = torch.tensor(rows)
    result = distribution(logits, Sampling(temperature, top_k, top_p))
    torch.testing.assert_close(result.sum(-1), torch.ones(len(rows)))
    kept = result.gather(-1, logits.argmax(-1, keepdim=True))
    assert (kept > 0).all()
    assert (kept.squeeze(-1) >= result.max(-1).values - 1e-6).all()


@given(ROWS, TEMPERATURES, st.integers(1, 30))
def test_top_k_keeps_k_and_their_ties(rows, temperature, top_k):
    logits = torch.tensor(rows)
    result = distribution(logits, Sampling(temperature, top_k))
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
    for row, kept in zip(scaled, result, strict=True):
        threshold = row.sort(descending=True).values[min(top_k, len(row)) - 1]
        assert (kept[row < threshold] == 0).all()
        expected = torch.where(row >= threshold, row, -torch.inf).softmax(-1)
        torch.testing.assert_close(kept, expected)


@given(ROWS, TEMPERATURES, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(rows, temperature, top_p):
    logits = torch.tensor(rows)
    plain = distribution(logits, Sampling(temperature))
    result = distribution(logits, Sampling(temperature, top_p=top_p))
    for before, after in zip(plain, result, strict=True):
        kept = after > 0
        assert before[kept].sum() >= top_p - 1e-4
        least = before[kept].min()
        assert before[kept].sum() - least < top_p + 1e-4, "one token less would not reach p"
        assert (before[~kept] <= least + 1e-6).all(), "no token left out is likelier than one kept"


@given(ROWS)
def test_temperature_0_takes_the_likeliest(rows):
    logits = torch.tensor(rows)
    assert torch.equal(Sampler(Sampling(), len(rows), "cpu")(logits), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-45, 5e-324])
def test_a_tiny_temperature_is_greedy_and_no_nan(temperature):
    logits = torch.tensor([[-3.0, 88.0, 1e4, 9.9e3]])
    assert distribution(logits, Sampling(temperature)).tolist() == [[0, 0, 1, 0]]


def test_a_low_temperature_sharpens_and_a_high_one_flattens():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    cold, plain, hot = (distribution(logits, Sampling(t))[0, 2] for t in (0.5, 1.0, 2.0))
    assert cold > plain > hot


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_the_same_seed_draws_the_same(seed, batch):
    logits = torch.linspace(0, 1, 50).repeat(batch, 1)
    one, other = (Sampler(Sampling(1.0, seed=seed), batch, "cpu") for _ in range(2))
    assert [one(logits).tolist() for _ in range(5)] == [other(logits).tolist() for _ in range(5)]


def test_other_seeds_draw_otherwise():
    logits = torch.zeros(1, 1000)
    draws = {Sampler(Sampling(1.0, seed=seed), 1, "cpu")(logits).item() for seed in range(20)}
    assert len(draws) > 10


@given(st.integers(0, 1000))
def test_the_first_sequence_draws_the_same_whatever_else_is_in_the_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 30, generator=generator)
    together, alone = (Sampler(Sampling(1.0, seed=seed), size, "cpu") for size in (4, 1))
    for _ in range(4):
        assert together(logits)[0] == alone(logits[:1])[0]


def test_draws_follow_the_distribution():
    sampling = Sampling(0.7, top_k=3)
    logits = torch.tensor([[0.0, 1.0, 2.0, 1.5, -1.0]])
    sampler = Sampler(sampling, 1, "cpu")
    counts = torch.bincount(torch.cat([sampler(logits) for _ in range(4000)]), minlength=5) / 4000
    torch.testing.assert_close(counts, distribution(logits, sampling)[0], atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_values_without_a_meaning_are_refused(options, name):
    assert refused(UsageError, "MM520", Sampling, **options).message.startswith(f"{name} is ")


@pytest.mark.parametrize("top_p", [1e-46, 5e-324, 1e-20])
def test_the_most_likely_token_is_kept_however_small_top_p_is(top_p):
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    found = distribution(logits, Sampling(temperature=1.0, top_p=top_p))
    assert torch.equal(found.argmax(-1), logits.argmax(-1))
    assert torch.equal(found.amax(-1), torch.ones(3))
