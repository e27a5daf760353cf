"""The program builds with exactly what each version of TensorRT has: names recorded from its own Python modules."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from mmbuild.backends.tensorrt import program
from mmbuild.backends.tensorrt.engine import ENGINE, build_exported
from mmbuild.backends.tensorrt.errors import TensorRTError
from mmbuild.backends.tensorrt.export import Exported
from mmbuild.backends.visual.config import VisualConfig
from mmbuild.base.errors import MmbuildError
from support import TESTS
from support.errors import refused
from support.marks import slow_except
from support.toolchain import fake_tensorrt as fake

FORMATS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
GPU = {"device": "cuda", "sm": 90}


def config(dtype: str = "float16", images: int = 6) -> VisualConfig:
    return VisualConfig(dtype, dtype, images, 3, (4, 5))


def model(room: Path, dtype: str = "float16") -> Path:
    """Pixels to their cosines' sines, as [B, 3, 20]."""
    nodes = [
        helper.make_node("Cos", ["pixels"], ["a"], name="/tower/Cos"),
        helper.make_node("Sin", ["a"], ["b"], name="/tower/Sin"),
        helper.make_node("Flatten", ["b"], ["c"], name="/tower/Flatten"),
        helper.make_node("Reshape", ["c", "shape"], ["features"], name="/projector/Reshape"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", FORMATS[dtype], ["batch", 3, 4, 5])],
        [helper.make_tensor_value_info("features", FORMATS[dtype], ["batch", 3, 20])],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 3, 20])],
    )
    path = room / "visual.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


def build(room: Path, installed: str, dtype: str = "float16", **options: Any) -> dict[str, Any]:
    """Build the small model; ``options``: FAKE_FAULT and options of the program."""
    fault = {name: options.pop(name) for name in list(options) if name.isupper()}
    out = room / "out"
    out.mkdir(exist_ok=True)
    python = fake.interpreter(room, installed, **fault)
    return build_exported(python, Exported(model(room, dtype), 20), config(dtype), out, GPU, options)


def plan(room: Path) -> dict[str, Any]:
    """The build request that the stand-in received."""
    head: dict[str, Any] = json.loads((room / "out" / ENGINE).read_bytes().split(b"\n", 1)[0])
    return head


every_version = pytest.mark.parametrize("version", slow_except(fake.VERSIONS, "8.6.0", "11.4.0.106"))


@every_version
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_build_says_what_it_made(tmp_path: Path, version: str, dtype: str) -> None:
    answer = build(tmp_path, version, dtype)
    assert (answer["version"], answer["sm"]) == (version, 90)
    assert answer["engine_bytes"] == (tmp_path / "out" / ENGINE).stat().st_size
    assert plan(tmp_path)["profile"] == {"pixels": [[1, 3, 4, 5], [3, 3, 4, 5], [6, 3, 4, 5]]}
    assert plan(tmp_path)["pools"]["WORKSPACE"] > 0


@every_version
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_formats_are_the_network_s_own_from_10_on_and_a_flag_before(
    tmp_path: Path, version: str, dtype: str
) -> None:
    build(tmp_path, version, dtype)
    old = version.startswith("8.")
    assert plan(tmp_path)["typed"] is not old
    assert ("FP16" in plan(tmp_path)["flags"]) is (old and dtype == "float16")
    # float32 is float32: TensorRT's default would be 10 bits of mantissa.
    assert ("TF32" in plan(tmp_path)["flags"]) is (dtype != "float32")


@every_version
def test_no_tactic_comes_out_of_another_library(tmp_path: Path, version: str) -> None:
    build(tmp_path, version)
    assert plan(tmp_path)["sources"] == ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]


@every_version
def test_bfloat16_is_built_from_10_on(tmp_path: Path, version: str) -> None:
    if version.startswith("8."):
        error = refused(TensorRTError, "MM567", build, tmp_path, version, "bfloat16")
        assert version in error.message
    else:
        build(tmp_path, version, "bfloat16")
        assert plan(tmp_path)["typed"]


@every_version
def test_a_node_that_is_not_read_is_named_and_nothing_is_built(tmp_path: Path, version: str) -> None:
    error = refused(TensorRTError, "MM571", build, tmp_path, version, FAKE_FAULT="unknown:Sin")
    assert "/tower/Sin (Sin)" in error.message
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        ("build", "MM572", "Could not find any implementation"),
        ("profile", "MM572", "(6, 3, 4, 5)"),
        ("start", "MM566", "damaged"),
    ],
)
def test_a_build_that_fails_quotes_tensorrt(tmp_path: Path, fault: str, code: str, told: str) -> None:
    assert told in refused(TensorRTError, code, build, tmp_path, "8.6.0", FAKE_FAULT=fault).message


@pytest.mark.parametrize("version", ["7.2.3", "8.5.3", "9.3.0"])
def test_other_lines_of_tensorrt_are_refused(tmp_path: Path, version: str) -> None:
    recorded = json.loads((fake.CONTRACTS / "8.6.0.json").read_text()) | {"version": version}
    (tmp_path / "names.json").write_text(json.dumps(recorded))
    variables = {"FAKE_TENSORRT": str(tmp_path / "names.json")}
    error = refused(TensorRTError, "MM567", build, tmp_path, "8.6.0", **variables)
    assert version in error.message


def test_an_engine_for_another_gpu_is_not_built(tmp_path: Path) -> None:
    error = refused(TensorRTError, "MM569", build, tmp_path, "10.0.1", FAKE_SM="89")
    assert "SM 90" in error.message
    assert "SM 89" in error.message


def test_the_version_that_was_planned_with_is_the_one_that_builds(tmp_path: Path) -> None:
    error = refused(TensorRTError, "MM568", build, tmp_path, "10.0.1", version="8.6.0")
    assert "8.6.0" in error.message


def test_without_a_gpu_the_driver_s_own_error_is_reported(tmp_path: Path) -> None:
    error = refused(TensorRTError, "MM570", build, tmp_path, "8.6.0", FAKE_CUDA_FAULT="cuInit")
    assert "cuInit" in error.message


# Timings.


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def known(path: Path, changes: dict[str, str] | None = None) -> dict[str, str]:
    return {"path": str(path), "sha256": digest(path)} | (changes or {})


@every_version
def test_timings_are_kept_under_their_digest_and_given_ones_stay_as_they_are(
    tmp_path: Path, version: str
) -> None:
    first = build(tmp_path, version)["timing_cache"]
    (file,) = (tmp_path / "out").glob("*.timings")
    assert file.stem == first["sha256"] == digest(file)
    assert (first["given"], first["changed"]) == (None, False)
    file.chmod(0o444)
    again = build(tmp_path, version, timing_cache=known(file.rename(tmp_path / file.name)))["timing_cache"]
    assert again == {"given": first["sha256"], "sha256": first["sha256"], "changed": False}
    assert digest(tmp_path / file.name) == first["sha256"]


def test_a_build_that_measured_more_reports_it(tmp_path: Path) -> None:
    partial = tmp_path / "partial.timings"
    partial.write_text(json.dumps({"Cos": 1, "version": "8.6.0"}))
    reported = build(tmp_path, "8.6.0", timing_cache=known(partial))["timing_cache"]
    assert reported["changed"]
    assert reported["given"] == digest(partial) != reported["sha256"]
    assert (tmp_path / "out" / f"{reported['sha256']}.timings").exists()


@pytest.mark.parametrize(
    ("content", "changes"),
    [
        ({"version": "8.6.0"}, {"sha256": "0" * 64}),
        ({"version": "8.6.0"}, {"path": "/nowhere/at.all"}),
        ({"version": "10.0.1"}, {}),
    ],
    ids=["other content", "no file", "other version"],
)
def test_timings_that_cannot_be_used_are_refused(
    tmp_path: Path, content: dict[str, str], changes: dict[str, str]
) -> None:
    file = tmp_path / "given.timings"
    file.write_text(json.dumps(content))
    refused(TensorRTError, "MM573", build, tmp_path, "8.6.0", timing_cache=known(file, changes))


# The process.

_PARENT = """\
import os, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_program import build
build(Path(sys.argv[3]), "8.6.0", FAKE_FAULT="slow", FAKE_STARTED=sys.argv[4])
"""


@pytest.mark.slow
def test_a_build_ends_with_its_parent(tmp_path: Path) -> None:
    pipe = tmp_path / "started"
    os.mkfifo(pipe)
    paths = [str(TESTS), str(Path(__file__).parent)]
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, *paths, str(tmp_path), str(pipe)])
    child = os.pidfd_open(int(pipe.read_text()))  # opening waits for the other end
    parent.kill()
    parent.wait()
    assert select.select([child], [], [], 60)[0], "the builder outlived its parent"
    os.close(child)


def test_it_runs_on_its_own_with_no_module_of_ours(tmp_path: Path) -> None:
    python = fake.interpreter(tmp_path)
    script = tmp_path / "elsewhere" / "program.py"
    script.parent.mkdir()
    script.write_text(Path(program.__file__).read_text())
    (tmp_path / "out").mkdir()
    request = {
        "op": "build",
        "onnx": str(model(tmp_path)),
        "engine": str(tmp_path / "out" / ENGINE),
        "dtype": "float16",
        "image_size": [4, 5],
        "max_batch_size": 2,
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        env={**python.variables, "PATH": os.environ["PATH"]},
        check=True,
    )
    assert json.loads(done.stdout)["ok"]["version"] == "8.6.0"
    assert not list((tmp_path / "out").glob("*.timings"))


def test_what_libraries_print_does_not_reach_the_answers(tmp_path: Path) -> None:
    assert build(tmp_path, "8.6.0", FAKE_FAULT="prints")["version"] == "8.6.0"


def test_a_faulty_program_is_a_bug_and_not_silence(tmp_path: Path) -> None:
    assert isinstance(
        refused(MmbuildError, "MM576", build, tmp_path, "8.6.0", FAKE_FAULT="bug"), TensorRTError
    )


def test_a_killed_builder_is_reported(tmp_path: Path) -> None:
    error = refused(TensorRTError, "MM577", build, tmp_path, "8.6.0", FAKE_FAULT="killed")
    assert f"signal {int(signal.SIGKILL)}" in error.message
