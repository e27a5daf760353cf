"""Step hf_weights: where scales come from."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from mmbuild.backends.hf import arithmetic
from mmbuild.backends.hf.forms import SAMPLED
from mmbuild.backends.hf.inputs import measure
from mmbuild.backends.lowering import step_params
from mmbuild.core.steps.context import StepContext
from mmbuild.models.calibration_data.samples import CalibrationError
from mmbuild.steps import hf_weights
from support.errors import refused
from support.hf.checkpoints import FAMILIES, MODELS, facts, tensors, unpack, weights

ANSWERED = MODELS.parent / "calibration" / "llava.jsonl"


def fitted(out, algorithm, data=ANSWERED):
    out.mkdir(exist_ok=True)
    params = {
        **step_params.convert(facts("llava"), "float32", 1),
        "algorithm": algorithm,
        "group_size": None,
        "image_size": [64, 64],
        "calibration": {"samples": 4, "seed": 0, "text_only": False},
    }
    context = StepContext(
        params=params,
        inputs={"model": FAMILIES["llava"]},
        locators={"data": str(data)},
        out=out,
        target={"device": "cpu"},
    )
    hf_weights.run(context)
    return tensors(out)


@pytest.mark.slow
def test_weight_only_scales_are_fitted_if_there_is_data(tmp_path):
    plain = tensors(weights(tmp_path, "llava", "int4"))
    better = fitted(tmp_path / "fitted", "int4")
    name = "language_model.model.layers.0.mlp.up_proj"
    scales = [found[f"{name}.weight_scale"] for found in (plain, better)]
    assert scales[0].shape == scales[1].shape
    assert bool((scales[0] != scales[1]).any())
    original = load_file(FAMILIES["llava"] / "model.safetensors")[f"{name}.weight"].float()
    widened = [
        arithmetic.widened(unpack(found[f"{name}.weight_packed"], 4, 128), found[f"{name}.weight_scale"])
        for found in (plain, better)
    ]
    assert all(float((item - original).norm() / original.norm()) < 0.2 for item in widened)


@pytest.mark.slow
def test_the_scale_of_inputs_covers_the_largest_that_was_seen(tmp_path):
    few = fitted(tmp_path / "few", "fp8")
    scales = {name: float(tensor) for name, tensor in few.items() if name.endswith("input_scale")}
    assert len(scales) == 28
    assert all(0 < scale < 10 for scale in scales.values())
    for layer in range(4):
        own = [
            scales[f"language_model.model.layers.{layer}.self_attn.{name}_proj.input_scale"] for name in "qkv"
        ]
        assert len(set(own)) == 1


def test_data_that_cannot_be_used_is_refused(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"image": "missing.png", "prompt": "how many ?"}\n')
    error = refused(CalibrationError, "MM167", fitted, tmp_path / "out", "int8", data)
    assert "missing.png" in error.message


def test_activations_of_zero_are_refused_by_the_layer_s_name():
    linears = {"layers.0.mlp.up_proj": torch.nn.Linear(8, 4), "layers.0.mlp.gate_proj": torch.nn.Linear(8, 4)}
    run = partial(measure, linears, names=["mlp.up_proj"])
    error = refused(
        CalibrationError, "MM461", run, lambda: linears["layers.0.mlp.up_proj"](torch.zeros(2, 8))
    )
    assert "layers.0.mlp.up_proj" in error.message
    error = refused(
        CalibrationError, "MM461", run, lambda: linears["layers.0.mlp.up_proj"](torch.full((2, 8), torch.nan))
    )
    assert "NaN" in error.message


def test_statistics_are_those_of_all_rows_and_the_sample_is_drawn_from_all_of_them():
    linear = torch.nn.Linear(8, 4)
    batches = [torch.randn(3, 500, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    found = measure({"up": linear}, lambda: [linear(batch) for batch in batches], ["up"])["up"]
    rows = torch.cat([batch.flatten(0, 1) for batch in batches])
    assert torch.allclose(found.moments.mean, rows.mean(dim=0), atol=1e-5)
    assert torch.allclose(found.moments.variance, rows.var(dim=0, unbiased=False), atol=1e-4)
    assert torch.allclose(found.magnitude, rows.abs().mean(dim=0), atol=1e-5)
    assert torch.equal(found.largest, rows.abs().amax(dim=0))
    assert found.rows.shape == (SAMPLED, 8)
    every = {tuple(row.tolist()): number // 1500 for number, row in enumerate(rows)}
    drawn = [every[tuple(row.tolist())] for row in found.rows]
    assert len({tuple(row.tolist()) for row in found.rows}) == SAMPLED
    assert all(100 < drawn.count(number) < 250 for number in range(3))
