"""Calibrating a model that the GPU does not hold, between two devices that a CPU plays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import demo_worlds
from mmbuild.backends.torch.calibration import activation_stats, calibrate, fit_scales, offload
from mmbuild.backends.torch.calibration.fit_scales import LayerFit
from mmbuild.models.calibration_data import samples as data
from mmbuild.models.families import family as find_family
from mmbuild.models.families.processor import Request, load_processor
from mmbuild.models.families.reference import load_reference
from support.engines.two_devices import GPU, HOST, TwoDevices
from support.marks import slow_except

EXAMPLES = Path(__file__).parents[4] / "examples"
FAMILIES = ("llava", "vila", "blip2-opt")
ALGORITHMS = ("int4_awq", "smoothquant", "fp8")


def model(family: str) -> dict[str, Path]:
    return {"model": EXAMPLES / "models" / demo_worlds.MODELS[family]}


def requests(family: str) -> list[Request]:
    samples = data.load(EXAMPLES / "calibration" / f"{family}.jsonl", 2, 0, text_only=False)
    return list(
        calibrate.calibration_requests(load_processor(model(family)["model"], family), samples, family)
    )


class Split:
    """A model with its decoder's layers at home, and which of them were away at once."""

    def __init__(self, family: str) -> None:
        self.family, self.devices = family, TwoDevices()
        self.reference: Any = load_reference(family, model(family), "float32", "cpu")
        self.layers = list(self.reference.get_submodule(find_family(family).TRAITS.decoder or "").layers)
        self.devices.settle(iter(self.reference.state_dict().values()), HOST)
        self.away: list[int] = []

    def fit(self, fit: calibrate.LayerFitter[Any]) -> Mapping[str, Any]:
        def there(tensor: Tensor) -> Tensor:
            return self.devices.put(tensor, GPU)

        def home(tensor: Tensor) -> Tensor:
            return self.devices.put(tensor, HOST)

        for layer in self.layers:
            layer.self_attn.register_forward_pre_hook(lambda *_: self.away.append(self.count()))
        linears = calibrate.decoder_linears(self.reference, self.family)
        forward = calibrate._Passes(self.reference, requests(self.family), lambda *_: None)
        with calibrate.layer_by_layer(self.reference, self.family, there, home), self.devices:
            return fit(linears, forward=forward)

    def count(self) -> int:
        """Layers that are there."""
        return sum(self.devices.place_of(next(layer.parameters())) == GPU for layer in self.layers)


def whole(family: str, fit: calibrate.LayerFitter[Any]) -> Mapping[str, Any]:
    return calibrate.observe(fit, model(family), family, requests(family), dtype="float32", device="cpu")


def same(one: LayerFit, other: LayerFit) -> bool:
    if one.input_amax != other.input_amax:
        return False
    return one.prescale is other.prescale or torch.equal(*(found.prescale for found in (one, other)))  # type: ignore[arg-type]


CASES = [*(("llava", name) for name in ALGORITHMS), ("vila", "fp8"), ("blip2-opt", "int4_awq")]


@pytest.mark.parametrize(("family", "algorithm"), slow_except(CASES, ("llava", "smoothquant")))
def test_layers_that_come_one_by_one_are_fitted_as_in_a_whole_model(family: str, algorithm: str) -> None:
    def fit(linears: Mapping[str, nn.Linear], *, forward: Any) -> dict[str, LayerFit]:
        return fit_scales.fit(linears, algorithm, 64, forward)

    split = Split(family)
    found = split.fit(fit)
    assert split.devices.mixed == []
    expected = whole(family, fit)
    assert found.keys() == expected.keys()
    assert all(same(found[name], expected[name]) for name in expected)
    assert set(split.away) == {1}, "one layer is there at a time"
    assert split.count() == 0, "and none afterwards"
    # Where transformers takes a model to be, and so puts what it is asked.
    first = next(split.reference.parameters())
    assert split.devices.place_of(first) == GPU


def test_moments_are_those_of_a_whole_model() -> None:
    split = Split("llava")
    found, expected = split.fit(activation_stats.measure), whole("llava", activation_stats.measure)
    assert split.devices.mixed == []
    for name, one in expected.items():
        assert torch.equal(found[name].mean, one.mean)
        assert torch.equal(found[name].variance, one.variance)


def test_the_devices_that_are_played_refuse_to_be_mixed() -> None:
    devices = TwoDevices()
    one, other = torch.ones(3), torch.ones(3)
    devices.settle(iter([one]), HOST)
    devices.settle(iter([other]), GPU)
    with devices:
        assert devices.place_of(one * 2 + torch.ones(3)) == HOST
        with pytest.raises(RuntimeError, match="same device"):
            one + other
        assert devices.place_of(devices.put(one, GPU) + other) == GPU


def test_an_error_in_a_layer_leaves_it_at_home() -> None:
    def fails(linears: Mapping[str, nn.Linear], *, forward: Any) -> dict[str, LayerFit]:
        def stop(*_: object) -> None:
            raise ValueError("stop")

        next(iter(linears.values())).register_forward_pre_hook(stop)
        forward()
        return {}

    split = Split("llava")
    with pytest.raises(ValueError, match="stop"):
        split.fit(fails)
    assert split.count() == 0
    assert not split.layers[0]._forward_hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_by_the_headers_of_their_files(family: str) -> None:
    reference = load_reference(family, model(family), "float16", "cpu")
    held = sum(tensor.numel() * 2 for tensor in {id(p): p for p in reference.parameters()}.values())
    counted = offload.weights_bytes(model(family), "float16")
    assert held <= counted < 1.2 * held


def test_a_model_is_split_where_it_and_its_activations_leave_too_little() -> None:
    gigabyte = 1 << 30
    assert not offload.needs_offload(13 * gigabyte, 80 * gigabyte)
    assert offload.needs_offload(13 * gigabyte, 14 * gigabyte)
