"""Step build_visual: compiles tower and projector of a model for a number of images."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbuild.backends.tensorrt.errors import TensorRTError
from mmbuild.backends.torch.visual_loading import load_visual
from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import EngineError
from mmbuild.steps import build_visual
from support.engines.loaded import DEMO, demo_directory, demo_engine
from support.errors import refused
from support.toolchain import fake_tensorrt

PARAMS = {
    "family": "llava",
    "dtype": "float32",
    "feature_dtype": "float32",
    "max_batch_size": 4,
    "num_visual_features": 64,
    "image_size": [64, 64],
}


def build(model, out, **changes):
    target = {"device": "cpu", "sm": None, "isa": "avx2"}
    build_visual.run(
        StepContext(params={**PARAMS, **changes}, inputs={"model": model}, out=out, target=target)
    )


@pytest.mark.slow
def test_the_description_lists_the_build_parameters():
    described = json.loads((demo_directory() / "visual" / "visual.json").read_text())
    assert described == {name: value for name, value in PARAMS.items() if name != "family"}


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(DEMO, tmp_path / "model")


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_a_model_without_a_tower_or_projector_is_rejected(model, out, part):
    weights = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, model / "model.safetensors")
    assert part in refused(EngineError, "MM532", build, model, out).message


def test_an_unexpected_number_of_features_is_rejected(model, out):
    error = refused(EngineError, "MM533", build, model, out, num_visual_features=65)
    assert "64 features" in error.message
    assert "65" in error.message


@pytest.mark.slow
def test_tensorrt_builds_the_engine_if_planned(model, out, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    named = fake_tensorrt.interpreter(tmp_path, "10.0.1")
    config.write_text(json.dumps({"tensorrt": json.loads(named.model_dump_json())}))
    monkeypatch.setenv("MMBUILD_CONFIG", str(config))
    build(model, out, tensorrt={"version": "10.0.1"})
    described = json.loads((out / "visual.json").read_text())
    assert described["backend"] == "tensorrt"
    assert described["tensorrt"]["version"] == "10.0.1"
    pixels = torch.randn(2, 3, 64, 64)
    engine = load_visual(out, {"device": "cpu"})
    torch.testing.assert_close(engine(pixels), demo_engine().visual(pixels), rtol=1e-3, atol=1e-4)
    refused(TensorRTError, "MM568", build, model, out, tensorrt={"version": "8.6.0"})
