"""Moments of what enters linear layers, and weight-only scales that were fitted with them on whole models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import demo_worlds
from mmbuild.backends.torch.calibration import activation_stats, calibrate
from mmbuild.models.calibration_data import samples as data
from mmbuild.models.calibration_data.samples import CalibrationError
from mmbuild.models.checkpoint import weight_only, weight_only_fit
from mmbuild.models.checkpoint.weight_only import ALGORITHMS
from mmbuild.models.families.processor import Request, load_processor
from mmbuild.models.families.reference import continue_greedily, load_reference
from support.errors import refused
from support.marks import slow_except
from support.models.weight_only import dequantize

EXAMPLES = Path(__file__).parents[4] / "examples"
FAMILIES = ("llava", "vila", "blip2-opt")


def net(seed: int) -> tuple[nn.Linear, nn.Linear, list[torch.Tensor]]:
    torch.manual_seed(seed)
    samples = [torch.randn(1, length, 16) * 3 + 1 for length in (5, 1, 9)]
    return nn.Linear(16, 24), nn.Linear(24, 8), samples


@torch.no_grad()
def measured(
    first: nn.Linear, second: nn.Linear, samples: list[torch.Tensor]
) -> dict[str, weight_only_fit.Moments]:
    def forward() -> None:
        for sample in samples:
            second(first(sample).relu())

    return activation_stats.measure({"a": first, "b": second}, forward)


def test_they_are_mean_and_variance_over_all_tokens_of_all_samples() -> None:
    first, second, samples = net(1)
    found = measured(first, second, samples)
    rows = torch.cat([sample[0] for sample in samples])
    for name, entered in (("a", rows), ("b", first(rows).relu().detach())):
        assert torch.allclose(found[name].mean, entered.mean(dim=0), atol=1e-6)
        assert torch.allclose(found[name].variance, entered.var(dim=0, correction=0), rtol=1e-5)
    assert not first._forward_pre_hooks, "the layers are as they were"


def test_inputs_that_are_not_finite_or_zero_throughout_are_reported_by_the_layers_name() -> None:
    first, second, samples = net(2)
    error = refused(CalibrationError, "MM461", measured, first, second, [*samples, samples[0] * float("inf")])
    assert "`a`" in error.message
    assert not first._forward_pre_hooks
    nn.init.constant_(first.bias, -1e6)
    assert "`b`" in refused(CalibrationError, "MM461", measured, first, second, samples).message


def shown(family: str) -> tuple[dict[str, Path], list[Request]]:
    sources = {"model": EXAMPLES / "models" / demo_worlds.MODELS[family]}
    samples = data.load(EXAMPLES / "calibration" / f"{family}.jsonl", 12, 0, text_only=False)
    return sources, list(
        calibrate.calibration_requests(load_processor(sources["model"], family), samples, family)
    )


@contextmanager
def entering(linears: dict[str, nn.Linear]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """What enters each layer, kept whole."""
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in linears}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        return linears[name].register_forward_pre_hook(
            lambda _, inputs: kept[name].append(inputs[0].flatten(0, -2).clone())
        )

    handles = [keep(name) for name in linears]
    yield kept
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", slow_except(FAMILIES, "llava"))
def test_outputs_on_the_calibration_set_are_nearer_than_those_of_absmax_scales(family: str) -> None:
    sources, requests = shown(family)
    found = calibrate.observe(
        activation_stats.measure, sources, family, requests, dtype="float32", device="cpu"
    )
    reference = load_reference(family, sources, "float32", "cpu")
    linears = calibrate.decoder_linears(reference, family)
    with entering(linears) as kept, torch.no_grad():
        for request in requests:
            continue_greedily(reference, request, 1)
    for name, algorithm in ALGORITHMS.items():
        errors = []
        for layer, linear in linears.items():
            weight, x = linear.weight.detach(), torch.cat(kept[layer])
            made = (
                weight_only.quantize(weight, algorithm),
                weight_only_fit.quantize(weight, algorithm, found[layer]),
            )
            lefts = [dequantize(*one, algorithm) - weight for one in made]
            errors.append([float((x @ left.T).square().mean()) for left in lefts])
        plain, fitted = torch.tensor(errors).T
        assert float(fitted.sum()) < 0.9 * float(plain.sum()), name
        # Inputs are not independent, as the search takes them to be: a layer may come out as it was.
        assert bool((fitted <= 1.03 * plain).all()), name
