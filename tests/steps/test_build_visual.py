"""Step build_visual: compiles tower and projector of a model for a number of images."""

import json
import shutil

import pytest
import torch

from mmbuild.backends.lowering import step_params
from mmbuild.backends.tensorrt.errors import TensorRTError
from mmbuild.backends.torch.visual_loading import load_visual
from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import EngineError
from mmbuild.steps import build_visual
from support.engines.build import TARGET
from support.engines.loaded import DEMO, demo_directory, demo_engine
from support.errors import refused
from support.toolchain import fake_tensorrt

PARAMS = {
    "family": "llava",
    "shape": step_params.visual_shape("llava", {"model": json.loads((DEMO / "config.json").read_text())}),
    "dtype": "float32",
    "feature_dtype": "float32",
    "max_batch_size": 4,
    "num_visual_features": 64,
    "image_size": [64, 64],
}


def build(out, *, model=None, **changes):
    inputs = {"model": model} if model else {}
    build_visual.run(StepContext(params={**PARAMS, **changes}, inputs=inputs, out=out, target=TARGET))


@pytest.mark.slow
def test_the_description_lists_the_build_parameters():
    described = json.loads((demo_directory() / "visual" / "visual.json").read_text())
    assert described == {name: value for name, value in PARAMS.items() if name not in ("family", "shape")}


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(DEMO, tmp_path / "model")


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return path


def test_an_unexpected_number_of_features_is_rejected(out):
    error = refused(EngineError, "MM533", build, out, num_visual_features=65)
    assert "64 features" in error.message
    assert "65" in error.message


@pytest.mark.slow
def test_packages_of_equal_layers_are_one_file():
    directory = demo_directory() / "visual"
    calls = json.loads((directory / "calls.json").read_text())["calls"]
    packages = [call["package"] for call in calls]
    assert packages.count("layers") == PARAMS["shape"]["tower"]["num_hidden_layers"] > 1
    assert {path.stem for path in directory.glob("*.pt2")} == set(packages)


@pytest.mark.slow
def test_packages_compile_side_by_side_to_the_same_features(out, tmp_path, monkeypatch):
    """In processes forked from this one, whose threads have computed; none is known from before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    context = StepContext(params=PARAMS, out=out, target=TARGET, cores=2)
    build_visual.run(context)
    shutil.copy(demo_directory() / "visual" / "visual.safetensors", out)
    pixels = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(load_visual(out, {"device": "cpu"})(pixels), demo_engine().visual(pixels))


@pytest.mark.slow
def test_tensorrt_builds_the_engine_if_planned(model, out, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    named = fake_tensorrt.interpreter(tmp_path, "10.0.1")
    config.write_text(json.dumps({"tensorrt": json.loads(named.model_dump_json())}))
    monkeypatch.setenv("MMBUILD_CONFIG", str(config))
    build(out, model=model, tensorrt={"version": "10.0.1"})
    described = json.loads((out / "visual.json").read_text())
    assert described["backend"] == "tensorrt"
    assert described["tensorrt"]["version"] == "10.0.1"
    pixels = torch.randn(2, 3, 64, 64)
    engine = load_visual(out, {"device": "cpu"})
    torch.testing.assert_close(engine(pixels), demo_engine().visual(pixels), rtol=1e-3, atol=1e-4)
    refused(TensorRTError, "MM568", build, out, model=model, tensorrt={"version": "8.6.0"})
