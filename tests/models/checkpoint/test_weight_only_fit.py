"""Fitted weight-only scales: never worse than absmax for inputs with the measured moments, in the same format."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.models.checkpoint import weight_only, weight_only_fit
from mmbuild.models.checkpoint.weight_only import ALGORITHMS
from mmbuild.models.checkpoint.weight_only_fit import Moments
from support.examples import examples
from support.models.weight_only import dequantize

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def drawn(seed: int, outputs: int, inputs: int) -> tuple[torch.Tensor, Moments]:
    """A weight with a few large columns, and inputs of which some are large and some never vary."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=random) * 0.1
    weight *= torch.where(torch.rand(inputs, generator=random) < 0.05, 8.0, 1.0)
    variance = torch.randn(inputs, generator=random).square() * (torch.rand(inputs, generator=random) < 0.9)
    return weight, Moments(torch.randn(inputs, generator=random), variance)


def expected_error(
    weight: torch.Tensor, made: tuple[torch.Tensor, torch.Tensor], algorithm: str, m: Moments
) -> torch.Tensor:
    """Mean square error of each output [out] for inputs that vary independently, in float64."""
    left = (dequantize(*made, ALGORITHMS[algorithm]) - weight.float()).double()
    covariance = torch.diag(m.variance.double()) + torch.outer(m.mean.double(), m.mean.double())
    return torch.einsum("oi,ij,oj->o", left, covariance, left)


@settings(max_examples=examples(40), deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    pairs=st.integers(1, 20),
    inputs=st.integers(1, 70),
    algorithm=st.sampled_from(sorted(ALGORITHMS)),
    dtype=st.sampled_from(DTYPES),
)
def test_no_output_is_worse_than_without_data_and_the_format_is_the_same(
    seed: int, pairs: int, inputs: int, algorithm: str, dtype: torch.dtype
) -> None:
    weight, moments = drawn(seed, 2 * pairs, inputs)
    weight = weight.to(dtype)
    plain = weight_only.quantize(weight, ALGORITHMS[algorithm])
    found = weight_only_fit.quantize(weight, ALGORITHMS[algorithm], moments)
    assert [(part.dtype, part.shape) for part in found] == [(part.dtype, part.shape) for part in plain]
    before, after = (expected_error(weight, made, algorithm, moments) for made in (plain, found))
    # The search compares in float32.
    assert bool((after <= before * (1 + 1e-3) + 1e-9).all())


@pytest.mark.parametrize(("algorithm", "share"), [("int8", 0.8), ("int4", 0.6)])
def test_a_layer_as_wide_as_a_models_loses_much_less(algorithm: str, share: float) -> None:
    weight, moments = drawn(3, 256, 512)
    how = ALGORITHMS[algorithm]
    made = [weight_only.quantize(weight, how), weight_only_fit.quantize(weight, how, moments)]
    before, after = (float(expected_error(weight, one, algorithm, moments).sum()) for one in made)
    assert after < share * before


def test_the_error_that_is_minimized_is_that_of_inputs_with_these_moments() -> None:
    weight, moments = drawn(5, 6, 32)
    random = torch.Generator().manual_seed(1)
    x = moments.mean + torch.randn(200_000, 32, generator=random) * moments.variance.sqrt()
    made = weight_only_fit.quantize(weight, ALGORITHMS["int4"], moments)
    left = dequantize(*made, ALGORITHMS["int4"]) - weight
    measured = (x @ left.T).square().mean(dim=0)
    assert torch.allclose(moments.product(left, left), measured, rtol=0.03)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_rows_of_zeros_and_inputs_that_are_never_there_stay_what_they_are(algorithm: str) -> None:
    weight, moments = drawn(7, 8, 16)
    weight[2:4] = 0
    values, scales = weight_only_fit.quantize(weight, ALGORITHMS[algorithm], moments)
    assert torch.equal(scales[2:4], torch.zeros(2))
    assert bool(torch.isfinite(scales).all())
    nothing = Moments(torch.zeros(16), torch.zeros(16))
    plain = weight_only.quantize(weight, ALGORITHMS[algorithm])
    assert all(map(torch.equal, weight_only_fit.quantize(weight, ALGORITHMS[algorithm], nothing), plain))
    assert values.dtype is torch.int8


def test_a_ranks_part_of_the_inputs() -> None:
    _, moments = drawn(9, 2, 12)
    assert torch.equal(moments.columns((4, 8)).mean, moments.mean[4:8])
    assert moments.columns(None) is moments
