"""Arithmetic of the stored form: what values and scales mean, and which layers share a scale of their inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.backends.torch.calibration import apply_scales
from mmbuild.backends.torch.calibration.fit_scales import LayerFit
from mmbuild.models.calibration_data.samples import CalibrationError
from mmbuild.models.checkpoint.tensor_parallel import replicated
from mmbuild.models.checkpoint.tensor_table import SourceTensor, TensorSpec
from support.examples import examples

SIZES = st.integers(1, 12)
SEEDS = st.integers(0, 1 << 20)


def some(seed: int, outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    return weight, torch.rand(inputs, generator=generator) + 0.5


@settings(max_examples=examples(30), deadline=None)
@given(SEEDS, SIZES, st.integers(1, 4), st.sampled_from([4, 64, 128]))
def test_awq_values_and_scales_give_the_weight_back_to_half_a_step(
    seed: int, outputs: int, groups: int, group: int
) -> None:
    weight, prescale = some(seed, outputs, groups * group)
    made = apply_scales.awq("x", [weight], LayerFit(prescale, None), group, torch.float32)
    scales = made.tensors["weights_scaling_factor"]
    assert (made.values.dtype, int(made.values.abs().amax()) <= 8) == (torch.int8, True)
    assert scales.shape == (outputs, groups)
    step = scales.repeat_interleave(group, dim=1)
    error = (made.values * step - weight / prescale).abs()
    assert bool((error <= step / 2 * 1.0001).all())
    assert torch.equal(made.tensors["prequant_scaling_factor"], prescale)


def test_awq_fits_values_to_the_scales_that_are_stored() -> None:
    weight, prescale = some(3, 8, 64)
    made = apply_scales.awq("x", [weight], LayerFit(prescale, None), 64, torch.float16)
    scales, pre = made.tensors["weights_scaling_factor"], made.tensors["prequant_scaling_factor"]
    assert (scales.dtype, pre.dtype) == (torch.float16, torch.float16)
    step = scales.float().repeat_interleave(64, dim=1)
    # The largest of a group may exceed 7 steps by the rounding of the scale: 2 ** -11 of it.
    assert bool(((made.values * step - weight / pre.float()).abs() <= step * (0.5 + 7 * 2**-11)).all())


@settings(max_examples=examples(30), deadline=None)
@given(SEEDS, SIZES, st.integers(1, 60))
def test_smoothquant_gives_the_weight_back_to_half_a_step(seed: int, outputs: int, inputs: int) -> None:
    weight, prescale = some(seed, outputs, inputs)
    made = apply_scales.smoothquant("x", [weight], LayerFit(prescale, None))
    step = made.tensors["per_channel_scale"][0][:, None]
    smoother = made.tensors["smoother"][0]
    assert int(made.values.abs().amax()) == 127
    error = (made.values * step / smoother - weight).abs()
    assert bool((error <= step / smoother / 2 * 1.0001).all())


@settings(max_examples=examples(30), deadline=None)
@given(SEEDS, SIZES, st.integers(1, 60))
def test_fp8_gives_the_weight_back_to_its_mantissa(seed: int, outputs: int, inputs: int) -> None:
    weight, _ = some(seed, outputs, inputs)
    made = apply_scales.fp8("x", [weight[: outputs // 2], weight[outputs // 2 :]], LayerFit(None, 44.8))
    scale = made.tensors["weights_scaling_factor"]
    back = made.values.float() * scale
    # Three bits of mantissa: 1 / 16 of the value; below 2 ** -6 steps are 2 ** -9 wide.
    assert bool(((back - weight).abs() <= (weight.abs() / 16).maximum(scale * 2**-10) * 1.001).all())
    assert float(made.tensors["activation_scaling_factor"]) == pytest.approx(0.1)


def test_a_group_of_zeros_stays_zero() -> None:
    weight, prescale = some(1, 4, 128)
    weight[:, :64] = 0
    made = apply_scales.awq("x", [weight], LayerFit(prescale, None), 64, torch.float32)
    assert not made.values[:, :64].any()
    assert made.values[:, 64:].any()


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("algorithm", ["awq", "smoothquant", "fp8"])
def test_scales_that_came_to_nothing_name_the_layer(algorithm: str, value: float) -> None:
    weight = torch.full((4, 64), value)
    ones = torch.ones(64)
    make = {
        "awq": lambda: apply_scales.awq("layer.7", [weight], LayerFit(ones, None), 64, torch.float16),
        "smoothquant": lambda: apply_scales.smoothquant("layer.7", [weight], LayerFit(ones, None)),
        "fp8": lambda: apply_scales.fp8("layer.7", [weight], LayerFit(None, 1.0)),
    }[algorithm]
    with pytest.raises(CalibrationError, match=r"`layer\.7`") as caught:
        make()
    assert caught.value.code == "MM461"


def test_an_input_scale_beyond_the_dtype_names_the_layer() -> None:
    with pytest.raises(CalibrationError, match="overflow float16") as caught:
        apply_scales.awq("x", [torch.ones(2, 64)], LayerFit(torch.full((64,), 1e6), None), 64, torch.float16)
    assert caught.value.code == "MM461"


def spec(name: str, *sources: str) -> TensorSpec:
    parts = tuple(SourceTensor(f"{source}.weight", replicated, (2, 2)) for source in sources)
    return TensorSpec(f"transformer.layers.5.{name}.weight", parts, quantizable=True)


SPECS = [
    spec("attention.qkv", "q", "k", "v"),
    spec("mlp.fc", "g"),
    spec("mlp.gate", "u"),
    spec("mlp.proj", "d"),
]


def test_q_k_and_v_share_the_mean_of_their_scales() -> None:
    observed = {
        name: LayerFit(torch.full((2,), float(at)), None) for at, name in enumerate("qkvgud", start=1)
    }
    found = apply_scales.merged(SPECS, observed, "int4_awq")
    means = {name.partition("5.")[2]: float(one.prescale[0]) for name, one in found.items()}  # type: ignore[index]
    assert means == {
        "attention.qkv.weight": 2,
        "mlp.fc.weight": 4,
        "mlp.gate.weight": 5,
        "mlp.proj.weight": 6,
    }


def test_what_one_norm_feeds_shares_a_scale_of_smoothquant() -> None:
    observed = {
        name: LayerFit(torch.full((2,), float(at)), None) for at, name in enumerate("qkvgud", start=1)
    }
    found = apply_scales.merged(SPECS, observed, "smoothquant")
    means = [float(one.prescale[0]) for one in found.values()]  # type: ignore[index]
    assert means == [2, 4.5, 4.5, 6]
    unfolded = apply_scales.merged(SPECS, observed, "smoothquant", foldable=False)
    assert [float(one.prescale[0]) for one in unfolded.values()] == [1, 1, 1, 6]  # type: ignore[index]


def test_a_common_magnitude_is_the_largest() -> None:
    observed = {name: LayerFit(None, float(at)) for at, name in enumerate("qkvgud", start=1)}
    found = apply_scales.merged(SPECS, observed, "fp8")
    assert [one.input_amax for one in found.values()] == [3, 4, 5, 6]
