"""Step convert_visual: writes the weights of tower and projector in the engine's dtype."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbuild.backends.lowering import step_params
from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import CheckpointError, EngineError
from mmbuild.steps import convert_visual
from support.engines.loaded import DEMO
from support.errors import refused
from support.models import tiny_families as tiny


def shape_of(model: Path, family: str = "llava") -> dict[str, Any]:
    return step_params.visual_shape(family, {"model": json.loads((model / "config.json").read_text())})


def convert(model: Path, out: Path, dtype: str = "float32", family: str = "llava") -> dict[str, torch.Tensor]:
    params = step_params.convert_visual(family, shape_of(model, family), dtype)
    convert_visual.run(StepContext(params=params, inputs={"model": model}, out=out))
    assert [path.name for path in out.iterdir()] == ["visual.safetensors"]
    return load_file(out / "visual.safetensors")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_floats_are_converted_and_indexes_are_not(model: Path, out: Path, dtype: str) -> None:
    stored, written = load_file(model / "model.safetensors"), convert(model, out, dtype)
    name = "vision_tower.encoder.layers.0.mlp.fc1.weight"
    source = next(key for key in stored if key.endswith("layers.0.mlp.fc1.weight") and "vision" in key)
    assert torch.equal(written[name], stored[source].to(getattr(torch, dtype)))
    positions = written.pop("vision_tower.embeddings.position_ids")
    assert torch.equal(positions, torch.arange(positions.shape[1])[None])
    assert {value.dtype for value in written.values()} == {getattr(torch, dtype)}


def test_layers_after_the_selected_one_and_the_language_model_are_left_out(model: Path, out: Path) -> None:
    written = convert(model, out)
    layers = shape_of(model)["tower"]["num_hidden_layers"]
    indexes = {int(name.split(".")[3]) for name in written if ".layers." in name}
    assert indexes == set(range(layers))
    assert not any(name.startswith("language_model") or "post_layernorm" in name for name in written)


@pytest.mark.parametrize("family", ["vila", "blip2-opt", "blip2-t5", "nougat"])
def test_every_family_writes_the_tensors_of_its_module(family: str, tmp_path: Path, out: Path) -> None:
    sources = tiny.save_vila(1, tmp_path / "model") if family == "vila" else {"model": tmp_path / "model"}
    if family != "vila":
        tiny.save_model(family, 1, sources["model"])
    written = convert(sources["model"], out, family=family)
    module = tiny.filled(family, sources)
    expected = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert set(written) == set(expected)
    for name, value in written.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_a_model_without_a_tower_or_projector_is_rejected(model: Path, out: Path, part: str) -> None:
    weights = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, model / "model.safetensors")
    assert part in refused(EngineError, "MM532", convert, model, out).message
    assert not list(out.iterdir())


def test_a_tensor_of_another_shape_is_rejected(model: Path, out: Path) -> None:
    weights = load_file(model / "model.safetensors")
    name = next(key for key in weights if "multi_modal_projector.linear_1.weight" in key)
    save_file({**weights, name: torch.zeros(3, 3)}, model / "model.safetensors")
    assert "[3, 3]" in refused(EngineError, "MM531", convert, model, out).message


@pytest.mark.parametrize(
    ("value", "dtype"), [(torch.nan, "float32"), (torch.inf, "bfloat16"), (1e6, "float16")]
)
def test_values_that_are_not_finite_are_rejected(model: Path, out: Path, value: float, dtype: str) -> None:
    weights = load_file(model / "model.safetensors")
    name = next(key for key in weights if "layers.0.layer_norm1.bias" in key)
    weights[name] = weights[name].float()
    weights[name][-1] = value
    save_file(weights, model / "model.safetensors")
    assert "layer_norm1.bias" in refused(CheckpointError, "MM432", convert, model, out, dtype).message


def test_damaged_weights_are_rejected(model: Path, out: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\0" * 100)
    refused(CheckpointError, "MM403", convert, model, out)
