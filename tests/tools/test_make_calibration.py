"""Calibration data of the demo models, as committed in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

import make_calibration
from mmbuild.models.calibration_data import samples as data

HERE = Path(__file__).parents[2] / "examples" / "calibration"


@pytest.mark.parametrize("family", make_calibration.FAMILIES)
def test_the_committed_data_holds_as_many_samples_as_a_recipe_asks_for(family: str) -> None:
    samples = data.load(HERE / f"{family}.jsonl", data.DEFAULT_SAMPLES, 0, text_only=False)
    assert len(list(data.images(samples))) == len(samples)
    assert all(sample.answer for sample in samples)


def test_it_is_what_the_tool_writes(tmp_path: Path) -> None:
    make_calibration.write(tmp_path, samples=make_calibration.SAMPLES)
    for family in make_calibration.FAMILIES:
        assert (tmp_path / f"{family}.jsonl").read_text() == (HERE / f"{family}.jsonl").read_text()
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        path.name for path in (HERE / "pictures").iterdir()
    }
