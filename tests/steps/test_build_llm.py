"""Step build_llm: what it compiles, and what it rejects."""

import json
from dataclasses import replace

import pytest

from mmbuild.backends.torch import packages
from mmbuild.backends.torch.config import from_json
from mmbuild.backends.torch.package_shapes import compiled_sizes
from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import EngineError
from mmbuild.steps import build_llm
from support.engines.build import TARGET
from support.engines.loaded import demo_directory, demo_engine
from support.errors import refused

pytestmark = pytest.mark.slow


@pytest.fixture
def config():
    return demo_engine().config


def test_the_parameters_round_trip_to_the_engine_config(config):
    described = json.loads((demo_directory() / "engine.json").read_text())["llm"]
    assert from_json(described) == config
    assert config.to_json() == described


def test_packages_hold_no_weights_and_serve_any_number_of_layers(config):
    directory = demo_directory() / "llm"
    for name, shapes in packages.largest_shapes(config).items():
        path = directory / f"{name}.pt2"
        assert len(compiled_sizes(path)) == len(shapes)
        assert path.stat().st_size < 4e6
    assert config.llm.num_hidden_layers > 1
    deeper = replace(config, llm=replace(config.llm, num_hidden_layers=9))
    assert packages.largest_shapes(deeper) == packages.largest_shapes(config)


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
