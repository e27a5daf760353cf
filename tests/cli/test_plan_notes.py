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
