"""Which Python runs TensorRT, what it has, and what of that is in a plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.base import PlanContext
from mmbuild.backends.environments.probe import ProbeError
from mmbuild.backends.tensorrt import interpreter, plan
from mmbuild.backends.tensorrt.errors import TensorRTError
from mmbuild.backends.tensorrt.plan import plan_tensorrt
from mmbuild.backends.torch.lower import lower
from mmbuild.config.model import Interpreter
from mmbuild.core.graph.action import Action
from support.errors import refused
from support.projects.recipe_project import RECIPE, load, write_parts
from support.toolchain import fake_tensorrt as fake

GPU = {"device": "cuda", "sm": 90, "isa": "avx2"}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``configured(interpreter)``: the user's configuration names it; None: it names none."""

    def write(named: Interpreter | None) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps({"tensorrt": named and json.loads(named.model_dump_json())}))
        monkeypatch.setenv("MMBUILD_CONFIG", str(path))

    return write


def test_the_configured_interpreter_goes_before_this_one(
    configured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "installed_versions", lambda _names: {"tensorrt": "10.0.1"})
    named = fake.interpreter(tmp_path)
    configured(named)
    assert interpreter.find() == named


def test_this_python_is_used_where_it_has_tensorrt(
    configured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(None)
    site = fake.interpreter(tmp_path, "10.0.1").variables["PYTHONPATH"]
    monkeypatch.setenv("PYTHONPATH", site)
    monkeypatch.setattr(sys, "path", [*sys.path, *site.split(":")])
    found = interpreter.find()
    assert found.python == Path(sys.executable)
    assert interpreter.version(found) == "10.0.1"


def test_without_any_both_ways_are_reported(configured: Any) -> None:
    configured(None)
    error = refused(TensorRTError, "MM565", interpreter.find)
    assert error.hint is not None
    assert "pip install" in error.hint
    assert "config set-tensorrt" in error.hint
    assert "visual.backend" in error.hint


def test_an_interpreter_without_tensorrt_is_reported() -> None:
    bare = Interpreter(python=Path(sys.executable))
    refused(TensorRTError, "MM566", interpreter.version, bare)


def test_an_interpreter_that_is_not_there_is_reported(tmp_path: Path) -> None:
    refused(ProbeError, "MM614", interpreter.version, Interpreter(python=tmp_path / "python"))


@pytest.mark.parametrize("version", ["10.13.3.9", "8.6.1.post1"])
def test_a_wheel_s_post_number_is_not_tensorrt_s(tmp_path: Path, version: str) -> None:
    information = tmp_path / f"tensorrt-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
    named = Interpreter(python=Path(sys.executable), variables={"PYTHONPATH": str(tmp_path)})
    assert interpreter.version(named) == version.removesuffix(".post1")


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1.11", "11.4.0.106"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_formats_are_checked_before_anything_is_built(version: str, dtype: str) -> None:
    if version.startswith("8.") and dtype == "bfloat16":
        assert version in refused(TensorRTError, "MM567", interpreter.check_dtype, version, dtype).message
    else:
        interpreter.check_dtype(version, dtype)


@pytest.mark.parametrize("version", ["8.5.3", "9.3.0", "12.0.0"])
def test_other_versions_are_checked_before_anything_is_built(version: str) -> None:
    refused(TensorRTError, "MM567", interpreter.check_dtype, version, "float16")


# Plans.


def visual_action(room: Path, *overrides: str) -> Action:
    write_parts(room / "model")
    (variant,) = load(room, RECIPE, *overrides).variants
    graph = lower(variant, PlanContext(GPU, lambda path: path.name))
    (action,) = (action for action in graph.actions if action.step == "build_visual")
    return action


def test_the_version_is_in_the_key(configured: Any, tmp_path: Path) -> None:
    keys = {visual_action(tmp_path).definition_key}
    for version in ("8.6.0", "10.16.1.11"):
        configured(fake.interpreter(tmp_path, version))
        action = visual_action(tmp_path, "visual.backend=tensorrt")
        assert action.params["tensorrt"] == {"version": version}
        keys.add(action.definition_key)
    assert len(keys) == 3


def test_torch_s_visual_engine_needs_no_tensorrt(configured: Any, tmp_path: Path) -> None:
    configured(Interpreter(python=tmp_path / "nowhere"))
    assert "tensorrt" not in visual_action(tmp_path).params


def test_a_cpu_is_refused_before_an_interpreter_is_looked_for(configured: Any) -> None:
    configured(None)
    refused(TensorRTError, "MM578", plan_tensorrt, {"device": "cpu"}, "float16")


def test_a_missing_onnx_is_reported_before_anything_is_built(
    configured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(fake.interpreter(tmp_path))
    assert plan_tensorrt(GPU, "float16") == {"version": "8.6.0"}
    monkeypatch.setattr(plan, "installed_versions", lambda _names: {})
    refused(TensorRTError, "MM564", plan_tensorrt, GPU, "float16")
