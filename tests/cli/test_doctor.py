"""``mmbuild doctor`` as a user sees it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.lowering import local_environment
from mmbuild.base import host
from mmbuild.cli import main
from support.projects.recipe_project import write_project
from support.toolchain.environments import make_python

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without a driver and without a configuration."""
    monkeypatch.setenv("MMBUILD_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("MMBUILD_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["doctor", "--quick", *words])
    return status, capsys.readouterr().out


def checks(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status, and ``{group: {check: row}}`` of the JSON."""
    status, out = doctor(capsys, "--json", *words)
    document = json.loads(out)
    assert document["version"] == 1
    assert document["ok"] is (status == 0)
    found = {group["title"]: {row["name"]: row for row in group["checks"]} for group in document["groups"]}
    return status, found


def test_the_host_alone(capsys: pytest.CaptureFixture[str], alone: Path) -> None:
    status, out = doctor(capsys)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "host"
    assert any(line.split()[:2] == ["ok", "torch"] for line in lines)
    assert any(line.split()[:2] == ["unknown", "compiler"] for line in lines)
    assert "\x1b" not in out
    assert not (alone / "store").exists(), "it changes nothing"


def test_json_matches_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = checks(capsys)
    assert status == 0
    assert {"python", "gpu", "memory", "store", "build directory", "torch", "compiler", "git"} <= set(
        found["host"]
    )
    assert set(found["host"]["torch"]) == {"name", "status", "found", "wanted", "why", "way"}


def test_every_configured_toolchain_is_checked(capsys: pytest.CaptureFixture[str], alone: Path) -> None:
    python = make_python(alone / "venv", {"tensorrt_llm": "0.9.0"})
    Path("config.yaml").write_text(
        f"toolchains:\n  0.9.0: {{python: {python}, examples: {alone}}}\n"
        f"  0.10.0: {{python: {alone}/gone, examples: {alone}}}\n",
        "utf-8",
    )
    status, found = checks(capsys)
    assert status == 1
    assert list(found) == ["host", "TensorRT-LLM 0.9.0", "TensorRT-LLM 0.10.0"]
    assert found["TensorRT-LLM 0.9.0"]["tensorrt-llm"]["status"] == "ok"
    assert found["TensorRT-LLM 0.9.0"]["torch"]["found"] == "not installed"
    assert found["TensorRT-LLM 0.10.0"]["environment"]["status"] == "fail"


def test_a_recipe_for_the_embedded_engine_needs_no_toolchain(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = checks(capsys, str(RECIPES / "demo" / "llava-int4.yaml"), "--set", "target.device=cpu")
    assert status == 0
    assert list(found) == ["host"]
    assert "git" not in found["host"]
    assert found["host"]["memory"]["wanted"].startswith("about ")


def test_a_recipe_for_a_toolchain_needs_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = checks(capsys, str(RECIPES / "llava-int4.yaml"), "--offline")
    assert status == 1
    assert list(found) == ["host", "TensorRT-LLM 1.2"]
    assert "torch" not in found["host"]
    rows = found["TensorRT-LLM 1.2"]
    assert {name for name, row in rows.items() if row["status"] == "fail"} == {"environment", "gpu"}
    assert "mmbuild config set-toolchain 1.2" in rows["environment"]["way"]


@pytest.mark.parametrize(
    ("recipe", "package"), [("llava-awq", "nvidia-modelopt"), ("llava-checkpoint", "compressed-tensors")]
)
def test_a_missing_package_is_a_row_of_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, recipe: str, package: str
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    listed = host.installed_versions
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(
        host, "installed_versions", lambda *names: {k: v for k, v in listed(*names).items() if k != package}
    )
    local_environment._installed.cache_clear()
    status, found = checks(capsys, str(RECIPES / "demo" / f"{recipe}.yaml"), "--set", "target.device=cpu")
    assert status == 1
    assert found["host"][package]["status"] == "fail"
    assert "pip install" in found["host"][package]["way"]
    assert "python" in found["host"]


def test_cuda_recipe_on_a_host_without_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(RECIPES / "demo" / "llava-int4.yaml")
    status, found = checks(capsys, recipe, "--set", "target={device: cuda, sm: 90}")
    assert status == 1
    assert found["host"]["gpu"]["wanted"] == "1 GPU"


def test_several_ranks_need_mpirun(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBUILD_MPIRUN", "/nowhere/mpirun")
    recipe = str(RECIPES / "demo" / "llava-int4.yaml")
    status, found = checks(capsys, recipe, "--set", "engine.tensor_parallel=2", "--set", "target.device=cpu")
    assert status == 1
    assert found["host"]["mpirun"]["status"] == "fail"


def test_invalid_recipe_is_reported_as_by_validate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write_project(tmp_path / "project")
    assert main(["doctor", "--quick", str(path), "--set", "engine.dtype=flaot16"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "[MM112]" in captured.err


def test_invalid_configuration_is_reported_with_its_location(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("toolchain: {}\n", "utf-8")
    assert main(["doctor", "--quick"]) == 1
    assert "config.yaml:1:1: error:" in capsys.readouterr().err


def test_terminal_output_is_a_coloured_table() -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "mmbuild", "doctor", "--quick"]
    with subprocess.Popen(command, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        while part := _read(leader):
            shown += part
    os.close(leader)
    assert process.returncode == 0
    assert b"\x1b[32mok" in shown
    assert "python" in shown.decode("utf-8")


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # the other side is closed (Linux)
        return b""
