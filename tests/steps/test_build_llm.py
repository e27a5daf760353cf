"""Step build_llm: what it compiles, and what it rejects."""

import json

import pytest

from mmbuild.backends.torch.config import from_json
from mmbuild.backends.torch.export import outside_names, require_outside
from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import EngineError
from mmbuild.steps import build_llm
from support.engines.loaded import demo_directory, demo_engine
from support.errors import refused

pytestmark = pytest.mark.slow

TARGET = {"device": "cpu", "sm": None, "isa": "avx2"}


@pytest.fixture
def config():
    return demo_engine().config


def test_the_parameters_round_trip_to_the_engine_config(config):
    described = json.loads((demo_directory() / "engine.json").read_text())["llm"]
    assert from_json(described) == config
    assert config.to_json() == described


@pytest.mark.parametrize("package", ["prefill.pt2", "decode.pt2", "decode_batch.pt2"])
def test_packages_take_every_weight_from_outside_and_are_small(config, package):
    path = demo_directory() / "llm" / package
    require_outside(path, outside_names(config, path.stem, "cpu"))
    assert path.stat().st_size < 8e6


def test_a_weight_compiled_into_a_package_is_named(config):
    path = demo_directory() / "llm" / "decode.pt2"
    names = outside_names(config, "decode", "cpu") | {"model.transformer.nothing.weight"}
    error = refused(EngineError, "MM536", require_outside, path, names)
    assert "`model.transformer.nothing.weight`" in error.message
    assert "decode.pt2" in error.message


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"quant_algo": "W4A8_AWQ"}, "MM502", "W4A8_AWQ"),
        ({"llm": {"rotary_scaling": {"rope_type": "yarn", "factor": 2.0}}}, "MM503", "yarn"),
        ({"llm": {"hidden_act": "swish"}}, "MM502", "swish"),
        ({"tomorrow": 1}, "MM501", "tomorrow"),
    ],
)
def test_unsupported_models_are_rejected_before_compiling(config, tmp_path, changes, code, words):
    params = config.to_json()
    params |= {**changes, "llm": {**params["llm"], **changes.get("llm", {})}}
    error = refused(EngineError, code, build_llm.run, StepContext(params=params, target=TARGET, out=tmp_path))
    assert words in error.message
    assert not list(tmp_path.iterdir())


def test_fp8_for_a_gpu_without_it_is_rejected_before_compiling(config, tmp_path):
    context = StepContext(
        params=config.to_json() | {"quant_algo": "FP8"},
        target={"device": "cuda", "sm": 80, "isa": None},
        out=tmp_path,
    )
    assert "SM 80" in refused(EngineError, "MM545", build_llm.run, context).message
    assert not list(tmp_path.iterdir())
