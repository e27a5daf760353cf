"""Model Optimizer on linear layers: what is read back from it, against its own quantizers; and bad inputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmbuild.backends.torch.calibration import apply_scales, fit_scales
from mmbuild.backends.torch.calibration.fit_scales import LayerFit
from mmbuild.models.calibration_data.samples import CalibrationError

INPUTS, GROUP = 128, 64


def net(seed: int) -> tuple[dict[str, nn.Linear], torch.Tensor]:
    torch.manual_seed(seed)
    first, second = nn.Linear(INPUTS, INPUTS, bias=False), nn.Linear(INPUTS, 32)
    # A few channels are much larger than the others, as in language models.
    x = torch.randn(40, INPUTS) * torch.where(torch.rand(INPUTS) < 0.05, 30.0, 1.0)
    return {"layers.0.a": first, "layers.0.b": second}, x


def fit(linears: dict[str, nn.Linear], x: torch.Tensor, algorithm: str) -> dict[str, LayerFit]:
    first, second = linears.values()
    return fit_scales.fit(linears, algorithm, GROUP, lambda: second(first(x).relu()).sum().item())


def test_no_extension_is_compiled_for_fitting() -> None:
    from modelopt.torch.quantization import extensions

    linears, x = net(4)
    first, second = linears.values()
    known, seen = dict(vars(extensions.get_cuda_ext)), []

    def forward() -> None:
        second(first(x).relu())
        seen.extend((extensions.get_cuda_ext(), extensions.get_cuda_ext_fp8()))

    fit_scales.fit(linears, "int4_awq", GROUP, forward)
    assert seen
    assert set(seen) == {None}
    assert vars(extensions.get_cuda_ext) == known, "other users of Model Optimizer get theirs"


@pytest.mark.slow
def test_awq_scales_are_those_of_model_optimizers_own_quantizer() -> None:
    linears, x = net(1)
    weights = {name: linear.weight.detach().clone() for name, linear in linears.items()}
    for name, found in fit(linears, x, "int4_awq").items():
        made = apply_scales.awq(name, [weights[name]], found, GROUP, torch.float32)
        fitted = linears[name].weight.detach()
        assert torch.allclose(fitted, weights[name] / found.prescale, rtol=1e-5)
        theirs = linears[name].weight_quantizer(fitted)
        ours = made.values * made.tensors["weights_scaling_factor"].repeat_interleave(GROUP, dim=1)
        step = made.tensors["weights_scaling_factor"].amax()
        # Equal but where rounding in float32 decides a tie.
        assert float(((ours - theirs).abs() > step * 1e-3).float().mean()) < 1e-3


@pytest.mark.slow
def test_awq_lowers_the_error_that_plain_rounding_makes() -> None:
    linears, x = net(2)
    weight = linears["layers.0.a"].weight.detach().clone()
    found = fit(linears, x, "int4_awq")["layers.0.a"]

    def error(scale: torch.Tensor) -> float:
        made = apply_scales.awq("a", [weight], LayerFit(scale, None), GROUP, torch.float32)
        back = made.values * made.tensors["weights_scaling_factor"].repeat_interleave(GROUP, dim=1)
        return float(((x * scale) @ back.T - x @ weight.T).square().mean())

    assert found.prescale is not None
    assert error(found.prescale) < 0.8 * error(torch.ones(INPUTS))


def test_smoothquant_levels_the_channels_of_the_inputs() -> None:
    linears, x = net(3)
    found = fit(linears, x, "smoothquant")["layers.0.a"]
    assert found.prescale is not None

    def spread(inputs: torch.Tensor) -> float:
        return float(inputs.abs().amax(dim=0).amax() / inputs.abs().amax(dim=0).median())

    assert spread(x * found.prescale) < 0.4 * spread(x)


def test_fp8_reads_the_largest_magnitude_of_the_inputs() -> None:
    linears, x = net(4)
    plain = copy.deepcopy(linears)
    found = fit(linears, x, "fp8")
    assert found["layers.0.a"].input_amax == pytest.approx(float(x.abs().amax()))
    middle = plain["layers.0.a"](x).relu()
    assert found["layers.0.b"].input_amax == pytest.approx(float(middle.detach().abs().amax()), rel=0.1)


@pytest.mark.parametrize("algorithm", ["int4_awq", "smoothquant", "fp8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_inputs_that_nothing_can_be_fitted_on_name_the_layer(algorithm: str, value: float) -> None:
    linears, x = net(5)
    second = linears["layers.0.b"]

    def forward() -> None:
        second(linears["layers.0.a"](x) * 0 + value)

    with pytest.raises(CalibrationError, match=r"`layers\.0\.b`") as caught:
        fit_scales.fit(linears, algorithm, GROUP, forward)
    assert caught.value.code == "MM461"
