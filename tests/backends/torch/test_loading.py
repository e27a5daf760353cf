"""Loading an engine directory compiles nothing, and reports problems with damaged or foreign ones."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mmbuild.backends.engine_dir import description
from mmbuild.backends.engine_dir.description import LayoutError
from mmbuild.backends.torch import Engine, aot_package
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.models.errors import EngineError
from mmbuild.models.families.processor import load_processor
from support.engines.build import TARGET
from support.engines.loaded import DEMO, demo_directory, demo_engine
from support.errors import refused

pytestmark = pytest.mark.slow

load = partial(Engine.load, check=False)
"""Errors in files edited on purpose, and in builds without a manifest."""


@pytest.fixture
def damaged(tmp_path):
    """A copy of the demo engine to damage."""
    return Path(shutil.copytree(demo_directory(), tmp_path / "engine"))


def edit(directory, **values):
    path = directory / description.DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_loaded_engine_answers(damaged):
    engine = Engine.load(damaged)
    assert engine.describe()["family"] == "llava"
    assert engine.config == demo_engine().config


def test_loading_and_answering_compiles_nothing(damaged, tmp_path):
    """No compiler is started (there is none to be found), and Inductor's cache stays empty."""
    cache = tmp_path / "inductor"
    script = (
        "import sys, numpy as np\n"
        "from mmbuild.backends.torch import Engine\n"
        "engine = Engine.load(sys.argv[1])\n"
        "print(engine.generate([np.zeros((64, 64, 3), np.uint8)], ['how many ?'], max_new_tokens=3)[0].text)\n"
    )
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "CXX": "/nowhere/c++", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(damaged)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_a_directory_without_engine_json_is_not_an_engine(tmp_path):
    error = refused(LayoutError, "MM540", Engine.load, tmp_path)
    assert str(tmp_path) in error.message
    assert "build/<name>" in error.hint


def test_a_missing_directory_is_not_an_engine(tmp_path):
    refused(LayoutError, "MM540", Engine.load, tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}', '{"version": 2}', "\x00"])
def test_an_engine_json_that_cannot_be_understood_is_refused(damaged, text):
    (damaged / description.DESCRIPTION).write_text(text)
    refused(LayoutError, "MM541", load, damaged)


def test_the_version_of_another_engine_is_reported(damaged):
    edit(damaged, version=99)
    error = refused(LayoutError, "MM541", load, damaged)
    assert "version 99" in error.message
    assert f"version {description.VERSION}" in error.message


@pytest.mark.parametrize("version", [2, 3])
def test_an_engine_with_packages_of_an_earlier_version_names_the_command(damaged, version):
    edit(damaged, version=version)
    error = refused(LayoutError, "MM541", load, damaged)
    assert "earlier mmbuild" in error.message
    assert "mmbuild apply" in error.hint


@pytest.mark.parametrize("text", [None, "", "{}", "{"])
def test_damaged_calls_of_a_visual_engine_are_refused(damaged, text):
    path = damaged / "visual" / "calls.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert "calls.json" in refused(EngineError, "MM501", load, damaged).message


def test_an_engine_config_with_an_unknown_key_is_of_another_version(damaged):
    edit(damaged, llm={**demo_engine().config.to_json(), "tomorrow": 1})
    assert "tomorrow" in refused(LayoutError, "MM541", load, damaged).message


def test_an_engine_of_another_torch_is_refused(damaged):
    edit(damaged, toolchain={"torch": "1.13.1+cu117"})
    error = refused(EngineError, "MM506", load, damaged)
    assert "1.13.1+cu117" in error.message
    assert torch.__version__ in error.message


def test_an_engine_for_instructions_missing_on_this_cpu_is_refused(damaged, monkeypatch):
    monkeypatch.setattr(aot_package, "cpu_isa", lambda: "generic")
    error = refused(EngineError, "MM507", load, damaged)
    assert str(TARGET["isa"]) in error.message
    assert "generic" in error.message


def test_an_engine_for_another_processor_is_refused(damaged, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "aarch64" in refused(EngineError, "MM507", load, damaged).message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_engine_for_cuda_is_refused_without_a_gpu(damaged):
    edit(damaged, target={"device": "cuda", "sm": 90, "isa": "avx2"})
    error = refused(EngineError, "MM507", load, damaged)
    assert "SM 90" in error.message
    assert "no GPU" in error.message


def test_an_engine_of_several_ranks_is_not_loaded_by_one_process(damaged):
    edit(damaged, llm={**demo_engine().config.to_json(), "tensor_parallel": 2})
    error = refused(RankError, "MM581", load, damaged)
    assert "2 ranks" in error.message
    assert "mpirun -n 2" in error.hint


LLM_WEIGHTS = "llm/rank0.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "llm/embed.pt2",
        "llm/layer_prefill.pt2",
        "llm/layer_decode_batch.pt2",
        LLM_WEIGHTS,
        "visual/layers.pt2",
        "visual/visual.safetensors",
    ],
)
def test_a_missing_file_is_named(damaged, name):
    (damaged / name).unlink()
    error = refused(EngineError, "MM504", load, damaged)
    assert str(damaged / name) in error.message
    assert "mmbuild apply" in error.hint


@pytest.mark.parametrize("name", [LLM_WEIGHTS, "visual/visual.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.9])
def test_truncated_weights_are_named(damaged, name, share):
    truncate(damaged / name, share)
    assert name in refused(EngineError, "MM504", load, damaged).message


@pytest.mark.parametrize("name", ["llm/layer_prefill.pt2", "visual/layers.pt2"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_package_is_named(damaged, name, share):
    truncate(damaged / name, share)
    assert name in refused(EngineError, "MM508", load, damaged).message


def truncate(path, share):
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: int(len(data) * share)])


def test_weights_of_another_engine_are_refused(damaged):
    shutil.copy(demo_directory("float32", "int8") / LLM_WEIGHTS, damaged / "other")
    (damaged / LLM_WEIGHTS).unlink()
    (damaged / "other").rename(damaged / LLM_WEIGHTS)
    refused(EngineError, "MM505", load, damaged)


@pytest.mark.parametrize("text", [None, "", "{}", "{"])
def test_a_damaged_visual_description_is_refused(damaged, text):
    path = damaged / "visual" / "visual.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert "visual.json" in refused(EngineError, "MM501", load, damaged).message


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("text", [None, "{"])
def test_a_processor_that_cannot_be_read_is_named(tmp_path, name, text):
    directory = tmp_path / "processor"
    shutil.copytree(DEMO, directory)
    (directory / name).unlink()
    if text is not None:
        (directory / name).write_text(text)
    assert str(directory) in refused(EngineError, "MM516", load_processor, directory, "llava").message


def test_a_process_that_is_killed_leaves_no_file_of_its_packages(tmp_path):
    program = f"from mmbuild.backends.torch import Engine; Engine.load({str(demo_directory())!r})"
    code = f"{program}; print('loaded', flush=True); input()"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "loaded\n"
        process.kill()
    assert list(tmp_path.iterdir()) == []


def test_packages_of_an_earlier_form_are_refused_with_the_command_that_compiles_new_ones(damaged):
    edit(damaged, version=2)
    error = refused(LayoutError, "MM541", load, damaged)
    assert "mmbuild apply" in error.hint
