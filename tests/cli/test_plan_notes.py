"""What `mmbuild plan` says on stderr about a plan that it makes all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.cli import main
from support.projects.recipe_project import write_parts, write_project

CALIBRATED = (
    "note: no calibration data: `small` will be calibrated on generated pictures; for good answers name data with "
    "`engine.quantization.calibration`\n"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a recipe that builds for a CPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmbuild.base.gpu.visible_gpus", lambda: None)
    write_parts(tmp_path / "model")
    write_project(tmp_path)
    return tmp_path


def notes(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """All that a plan prints to stderr."""
    assert main(["plan", "recipe.yaml", "--store", "store", *words]) == 0
    return capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_a_gpu_that_is_missing_here(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--set", "target.device=cuda", "--set", "target.sm=90")
    assert notes(capsys, *words) == (
        "note: small/build_llm needs 1 GPU(s), and 0 can be used here: apply refuses that on this machine (MM314)\n"
    )
    assert notes(capsys) == ""


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("backend", ["torch", "hf"])
def test_a_calibration_on_generated_pictures(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--set", f"engine.backend={backend}", "--set", "engine.quantization=int4_awq")
    assert CALIBRATED in notes(capsys, *words)
    assert CALIBRATED in notes(capsys, *words), "from the plan cache too"


@pytest.mark.usefixtures("project")
def test_an_engine_that_needs_more_memory_than_this_machine_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "mmbuild.base.host.default_target", lambda: {"device": "cpu", "sm": None, "isa": "avx2"}
    )
    monkeypatch.setattr("mmbuild.core.execution.resources.machine_memory", lambda: 64 * 10**9)
    many = ("--set", "engine.max_batch_size=1000000", "--set", "target.device=cpu")
    said = notes(capsys, *many)
    assert said.startswith("note: small takes about ")
    assert said.endswith(
        " to run, and this machine has 64.0 GB: lower max_batch_size or the lengths, or run it on a larger machine\n"
    )
    assert notes(capsys, *many) == said, "from the plan cache too"
    assert notes(capsys, *many[:2]) == said, "the default device"
    assert notes(capsys) == ""
    assert "to run, and" not in notes(capsys, *many, "--set", "engine.backend=hf")
    assert "to run, and" not in notes(capsys, *many, "--set", "target={device: cuda, sm: 90}")
