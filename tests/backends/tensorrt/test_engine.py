"""TensorRT visual engines answer as the module does, refuse what would be wrong, and leave nothing behind."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbuild.backends.tensorrt.engine import ENGINE, VisualEngine, build
from mmbuild.backends.tensorrt.errors import TensorRTError
from mmbuild.backends.torch.visual_loading import load_visual
from mmbuild.backends.visual.config import VisualConfig
from mmbuild.config.model import Interpreter
from mmbuild.models.errors import EngineError
from support import TESTS
from support.errors import refused
from support.marks import slow_except
from support.models import tiny_families as tiny
from support.toolchain import fake_tensorrt as fake

CPU = {"device": "cpu", "sm": 90}


def blip2(room: Path) -> tuple[torch.nn.Module, VisualConfig]:
    tiny.save_model("blip2-opt", 1, room)
    facts = tiny.facts("blip2-opt", {"model": room}).visual
    config = VisualConfig("float32", "float32", 3, facts.num_visual_features, tuple(facts.image_size))
    return tiny.filled("blip2-opt", {"model": room}), config


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``engine`` and ``site-8.6.0`` of a small BLIP-2."""
    room = tmp_path_factory.mktemp("built")
    (room / "engine").mkdir()
    build(*blip2(room / "model"), room / "engine", CPU, interpreter=fake.interpreter(room))
    return room


@pytest.fixture
def directory(built: Path, tmp_path: Path) -> Path:
    """A copy of the engine."""
    return shutil.copytree(built / "engine", tmp_path / "engine")


def python(room: Path, version: str = "8.6.0", **variables: str) -> Interpreter:
    return fake.interpreter(room, version, **variables)


def pictures(config: VisualConfig, count: int) -> torch.Tensor:
    return torch.randn(count, 3, *config.image_size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("version", slow_except(fake.VERSIONS, "8.6.0", "11.4.0.106"))
@torch.no_grad()
def test_features_are_the_module_s_for_every_number_of_images(tmp_path: Path, version: str) -> None:
    module, config = blip2(tmp_path / "model")
    expected = {count: module(pictures(config, count)) for count in (1, 2, 3)}
    out = tmp_path / "engine"
    out.mkdir()
    build(module, config, out, CPU, interpreter=python(tmp_path, version))
    engine = VisualEngine(out, CPU, python(tmp_path, version))
    for count, features in expected.items():
        torch.testing.assert_close(engine(pictures(config, count)), features, rtol=1e-4, atol=1e-5)
    engine.close()


@torch.no_grad()
def test_features_stay_when_other_pictures_come(built: Path) -> None:
    engine = VisualEngine(built / "engine", CPU, python(built))
    first = engine(pictures(engine.config, 1))
    kept = first.clone()
    engine(pictures(engine.config, 3))
    assert torch.equal(first, kept)


def test_it_is_found_by_its_description(built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, tmp_path, python(built))
    engine = load_visual(built / "engine", CPU)
    assert isinstance(engine, VisualEngine)
    assert engine.config.max_batch_size == 3


def configure(monkeypatch: pytest.MonkeyPatch, room: Path, interpreter: Interpreter) -> None:
    """A user's configuration that names ``interpreter``."""
    path = room / "config.yaml"
    path.write_text(json.dumps({"tensorrt": json.loads(interpreter.model_dump_json())}))
    monkeypatch.setenv("MMBUILD_CONFIG", str(path))


def test_its_description_has_the_versions_it_depends_on(built: Path) -> None:
    described = json.loads((built / "engine" / "visual.json").read_text())
    (timings,) = (built / "engine").glob("*.timings")
    assert described["backend"] == "tensorrt"
    assert described["tensorrt"] == {
        "version": "8.6.0",
        "sm": 90,
        "hidden_size": tiny.facts("blip2-opt", {"model": built / "model"}).llm.hidden_size,
        "engine_bytes": (built / "engine" / ENGINE).stat().st_size,
        "timing_cache": timings.stem,
        "timing_cache_changed": False,
    }


def load(directory: Path, room: Path, version: str = "8.6.0", **variables: str) -> VisualEngine:
    return VisualEngine(directory, CPU, python(room, version, **variables))


@pytest.mark.parametrize("version", ["10.0.1", "11.4.0.106"])
def test_another_version_of_tensorrt_is_refused_before_it_reads_the_engine(
    directory: Path, tmp_path: Path, version: str
) -> None:
    (directory / ENGINE).unlink()
    error = refused(TensorRTError, "MM568", load, directory, tmp_path, version)
    assert "8.6.0" in error.message
    assert version in error.message


def test_another_gpu_is_refused_before_it_reads_the_engine(directory: Path, tmp_path: Path) -> None:
    (directory / ENGINE).unlink()
    error = refused(TensorRTError, "MM569", load, directory, tmp_path, FAKE_SM="80")
    assert "SM 90" in error.message
    assert "SM 80" in error.message


def test_half_an_engine_is_refused_unread(directory: Path, tmp_path: Path) -> None:
    os.truncate(directory / ENGINE, 1000)
    # Were it read, the process would not say why it ends.
    error = refused(TensorRTError, "MM574", load, directory, tmp_path)
    assert "1000 bytes" in error.message


def test_a_damaged_engine_is_refused(directory: Path, tmp_path: Path) -> None:
    content = bytearray((directory / ENGINE).read_bytes())
    content[-100] ^= 1
    (directory / ENGINE).write_bytes(content)
    assert "Serialization" in refused(TensorRTError, "MM574", load, directory, tmp_path).message


def test_a_missing_engine_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / ENGINE).unlink()
    refused(TensorRTError, "MM574", load, directory, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch_size": 4},
        {"num_visual_features": 99},
        {"image_size": [16, 16]},
        {"dtype": "float16"},
        {"feature_dtype": "float16"},
    ],
    ids=str,
)
def test_an_engine_that_differs_from_its_description_is_refused(
    directory: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = directory / "visual.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(TensorRTError, "MM574", load, directory, tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"backend": "tensorrt"}', '{"backend": "tensorrt", "tensorrt": {"version": 1}}']
)
def test_a_damaged_description_is_refused(directory: Path, tmp_path: Path, content: str) -> None:
    (directory / "visual.json").write_text(content)
    refused(EngineError, "MM501", load, directory, tmp_path)


def test_too_many_pictures_and_other_sizes_are_refused(built: Path) -> None:
    engine = load(built / "engine", built)
    height, width = engine.config.image_size
    refused(EngineError, "MM534", engine, torch.zeros(4, 3, height, width))
    refused(EngineError, "MM534", engine, torch.zeros(0, 3, height, width))
    refused(EngineError, "MM535", engine, torch.zeros(1, 3, height + 1, width))
    assert engine(torch.zeros(1, 3, height, width)).isfinite().all()  # it goes on


# Faults at run time.


@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        ({"FAKE_CUDA_FAULT": "cuInit"}, "MM570", "cuInit"),
        ({"FAKE_CUDA_FAULT": "cuMemAlloc_v2"}, "MM570", "CUDA_ERROR_OUT_OF_MEMORY"),
        ({"FAKE_FAULT": "context"}, "MM574", "prepare"),
        ({"FAKE_TENSORRT": "/nowhere.json"}, "MM566", "cannot be imported"),
    ],
    ids=["no GPU", "full GPU", "no context", "a library is missing"],
)
def test_loading_that_fails_is_reported(
    built: Path, tmp_path: Path, variables: dict[str, str], code: str, told: str
) -> None:
    assert told in refused(TensorRTError, code, load, built / "engine", tmp_path, **variables).message


def test_memory_that_cannot_be_locked_is_not_a_failure(built: Path) -> None:
    engine = load(built / "engine", built, FAKE_CUDA_FAULT="cuMemHostRegister_v2")
    assert engine(pictures(engine.config, 2)).isfinite().all()


def test_an_execution_that_fails_is_reported_and_not_the_last_features(built: Path) -> None:
    engine = load(built / "engine", built, FAKE_FAULT="execute")
    error = refused(TensorRTError, "MM575", engine, pictures(engine.config, 2))
    assert "Cask convolution execution" in error.message


@pytest.mark.slow
def test_a_crash_is_reported_with_its_signal(built: Path) -> None:
    engine = load(built / "engine", built, FAKE_FAULT="crash")
    error = refused(TensorRTError, "MM577", engine, pictures(engine.config, 1))
    assert f"signal {int(signal.SIGSEGV)}" in error.message
    refused(TensorRTError, "MM577", engine, pictures(engine.config, 1))  # and again, and no hanging


@pytest.fixture
def child(built: Path) -> Iterator[tuple[VisualEngine, int]]:
    """An engine, and a descriptor of its process."""
    engine = load(built / "engine", built)
    descriptor = os.pidfd_open(engine.pid)
    yield engine, descriptor
    os.close(descriptor)


def ended(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 60)[0])


def test_a_killed_process_is_reported(child: tuple[VisualEngine, int]) -> None:
    engine, descriptor = child
    os.kill(engine.pid, signal.SIGKILL)
    assert ended(descriptor)
    assert "signal 9" in refused(TensorRTError, "MM577", engine, pictures(engine.config, 1)).message


def test_the_process_ends_with_the_engine(built: Path) -> None:
    engine = load(built / "engine", built)
    descriptor = os.pidfd_open(engine.pid)
    del engine
    assert ended(descriptor)
    os.close(descriptor)


_OWNER = """\
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_engine import load
room = Path(sys.argv[3])
engine = load(room / "engine", room)
print(engine.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_the_process_ends_with_the_one_that_loaded_it(built: Path) -> None:
    paths = [str(TESTS), str(Path(__file__).parent)]
    command = [sys.executable, "-c", _OWNER, *paths, str(built)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        descriptor = os.pidfd_open(int(owner.stdout.readline()))
        owner.kill()  # without a word
        assert ended(descriptor)
    os.close(descriptor)


def test_the_engine_alone_can_be_timed(built: Path) -> None:
    engine = load(built / "engine", built)
    seconds = engine.ask({"op": "time", "images": 2, "repeats": 3})["seconds"]
    assert len(seconds) == 3
    assert all(value > 0 for value in seconds)
