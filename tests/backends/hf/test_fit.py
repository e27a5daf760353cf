"""Scales of inputs are chosen by what they do to a site's outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmbuild.backends.hf import fit
from mmbuild.backends.hf.forms import FORMS
from mmbuild.backends.hf.inputs import Inputs
from mmbuild.models.checkpoint.weight_only_fit import Moments


def measured(rows: torch.Tensor) -> Inputs:
    """Statistics of ``rows`` [count, in]."""
    moments = Moments(rows.mean(dim=0), rows.var(dim=0, unbiased=False))
    return Inputs(moments, rows.abs().mean(dim=0), rows.abs().amax(dim=0), rows)


def rounded(values: np.ndarray) -> np.ndarray:
    """What int8 with a scale for each row makes of ``values``."""
    scales = np.abs(values).max(axis=1, keepdims=True) / 127
    return np.clip(np.round(values / scales), -128, 127) * scales


def error(weights: list[torch.Tensor], rows: torch.Tensor, scales: torch.Tensor) -> float:
    """Squared error of the outputs of all layers, in float64."""
    x, s = rows.double().numpy(), scales.double().numpy()
    exact = ((x @ w.double().numpy().T, w.double().numpy()) for w in weights)
    return float(sum(((rounded(x / s) @ rounded(w * s).T - y) ** 2).sum() for y, w in exact))


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_smoothquant_errs_no_more_than_with_the_papers_strength_or_with_none(
    spread: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    width, outputs = 32 + 8 * seed, (16, 24)
    # Some inputs are much larger than others, more or less.
    sizes = torch.exp(spread * torch.randn(width, generator=random))
    rows = torch.randn(96, width, generator=random) * sizes
    weights = [torch.randn(count, width, generator=random) / width**0.5 for count in outputs]
    found = fit.smoothquant(weights, measured(rows), FORMS["smoothquant"], torch.float32)
    columns = torch.cat(weights).abs().amax(dim=0)
    paper = (rows.abs().amax(dim=0) / columns).sqrt()
    for other in (paper, torch.ones(width)):
        assert error(weights, rows, found) <= 1.02 * error(weights, rows, other)


def test_an_input_that_is_always_zero_is_not_scaled() -> None:
    rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    rows[:, 3] = 0
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    scales = fit.smoothquant([weight], measured(rows), FORMS["smoothquant"], torch.float16)
    assert scales[3] == 1
    assert torch.isfinite(scales).all()
    assert bool((scales > 0).all())
