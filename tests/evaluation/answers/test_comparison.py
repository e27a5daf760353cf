"""Results of eval side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbuild.evaluation.answers.comparison import compare_results
from mmbuild.evaluation.answers.document import as_text
from support.evaluated import result

RIGHT, WRONG = "two", "three"


def keep(path: Path, value: dict[str, Any]) -> Path:
    path.write_text(as_text(value))
    return path


def test_differences_are_those_of_the_same_questions(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(60) < 0.7, rng.random(60) < 0.8
    found = compare_results(
        [
            keep(tmp_path / f"{name}.json", result([RIGHT if hit else WRONG for hit in hits]))
            for name, hits in (("ours", ours), ("theirs", theirs))
        ]
    )
    first, other = found["evaluations"]
    assert (first["label"], first["differences"]) == ("ours", None)
    assert (other["label"], other["common"], other["answered"]) == ("theirs", 60, 60)
    difference = other["differences"]["exact"]
    assert difference["mean"] == pytest.approx(theirs.mean() - ours.mean(), abs=1e-6)
    drawn = rng.integers(0, 60, (20_000, 60))  # the same questions of both
    apart = theirs[drawn].mean(axis=1) - ours[drawn].mean(axis=1)
    assert difference["interval"] == pytest.approx(np.quantile(apart, (0.025, 0.975)).tolist(), abs=0.02)
    assert found["notes"] == []
    assert "answers" not in other
    json.dumps(found)


def test_common_questions_are_found_by_content_in_any_order(tmp_path: Path) -> None:
    first = result([RIGHT, WRONG, RIGHT, WRONG])
    other = result([RIGHT, RIGHT, RIGHT], first=3, settings={"max_new_tokens": 1})
    other["answers"].reverse()
    found = compare_results([keep(tmp_path / "a.json", first), keep(tmp_path / "b.json", other)])
    second = found["evaluations"][1]
    assert (second["common"], second["differences"]["exact"]["mean"]) == (2, 0.5)
    assert found["notes"] == [
        "`b` and `a` have 2 questions in common, of 3 and 4: the difference is that of the common ones",
        "`b` and `a` were asked with different limits of tokens",
    ]


def test_repeated_questions_are_paired_in_turn(tmp_path: Path) -> None:
    twice = result([RIGHT, WRONG])
    twice["answers"][1]["digest"] = twice["answers"][0]["digest"]
    found = compare_results([keep(tmp_path / "a.json", twice), keep(tmp_path / "b.json", twice)])
    assert found["evaluations"][1]["common"] == 2
    assert found["evaluations"][1]["differences"]["exact"]["mean"] == 0


def test_results_without_common_questions_and_incomplete_ones(tmp_path: Path) -> None:
    first = keep(tmp_path / "a.json", result([RIGHT]))
    other = keep(tmp_path / "b.json", result([RIGHT], first=9, missing=3))
    found = compare_results([first, other])
    assert found["evaluations"][1]["differences"] is None
    assert found["notes"] == [
        "`b` and `a` have no question in common: their scores are not comparable",
        "`b` ended early: 3 questions have no answer",
    ]
