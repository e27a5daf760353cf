"""Arguments of the Python API in another form than documented are named, not taken for something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mmbuild
from mmbuild.core.execution.options import ApplyOptions
from support.projects.recipe_project import RECIPE, write_project


def test_one_text_is_not_a_list_of_overrides(tmp_path: Path) -> None:
    path = write_project(tmp_path, RECIPE)
    with pytest.raises(TypeError, match="is a list"):
        mmbuild.load_recipe(path, "engine.dtype=float16")


@pytest.mark.parametrize(
    "target", [{}, {"device": "gpu"}, {"devices": "cpu"}, {"device": "cpu", "arch": "avx2"}], ids=str
)
def test_a_target_in_another_form_is_named(tmp_path: Path, target: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="target is"):
        mmbuild.plan([], store=tmp_path / "store", target=target)


@pytest.mark.parametrize("jobs", [0, -1])
def test_there_is_at_least_one_job(jobs: int) -> None:
    with pytest.raises(ValueError, match="jobs is at least 1"):
        ApplyOptions(jobs=jobs)


def test_nothing_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="no builds"):
        mmbuild.compare([])
