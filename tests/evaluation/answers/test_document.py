"""The result of eval as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmbuild.evaluation.answers.document import ResultError, as_text, estimate_as_json, is_result, read
from mmbuild.evaluation.statistics import Estimate
from support.errors import refused
from support.evaluated import result

RESULT = result(["two", "Two.", "three"], missing=2)


def test_a_result_has_scores_and_every_answer() -> None:
    assert {name: score["mean"] for name, score in RESULT["scores"].items()} == {
        "exact": 0.333333,
        "normalized": 0.666667,
        "f1": 0.666667,
    }
    low, high = RESULT["scores"]["normalized"]["interval"]
    assert 0 <= low < 0.6667 < high <= 1
    assert RESULT["missing"] == 2
    assert [one["answer"] for one in RESULT["answers"]] == ["two", "Two.", "three"]
    assert RESULT["answers"][1]["scores"] == {"exact": 0, "normalized": 1, "f1": 1}


def test_equal_answers_give_equal_results() -> None:
    assert result(["two", "Two.", "three"], missing=2) == RESULT


def test_one_question_has_no_interval(tmp_path: Path) -> None:
    one = result(["two"])
    assert one["scores"]["exact"] == {"mean": 1.0, "error": None, "interval": None}
    (tmp_path / "a.json").write_text(as_text(one))
    assert read(tmp_path / "a.json") == one


def test_a_file_is_read_as_it_was_written_with_a_line_per_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(as_text(RESULT), encoding="utf-8")
    assert read(path) == json.loads(path.read_text("utf-8")) == RESULT
    assert is_result(path)
    assert sum(line.startswith('  {"line"') for line in path.read_text("utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "has version 2"),
        ({"format": "mmbuild-bench"}, "not a result of `mmbuild eval`"),
        ({"headline": "bleu"}, "`headline` is `bleu`"),
        ({"answers": []}, "`answers` is an array of 0 values"),
        ({"answers": [{**RESULT["answers"][0], "scores": {"exact": 2}}]}, "scores.exact` is 2"),
        ({"answers": [{**RESULT["answers"][0], "digest": "x"}]}, "digest` is `x`"),
        ({"scores": {}}, "`scores.exact` is missing"),
        ({"missing": "many"}, "`missing` is `many`"),
    ],
)
def test_damaged_files_are_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**RESULT, **change}))
    assert words in refused(ResultError, "MM894", read, path).message


def test_other_files_are_not_results(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert not is_result(path)
    refused(ResultError, "MM894", read, path)
    path.write_text('{"format": "mmbuild-bench"}')
    assert not is_result(path)
    path.write_text("[")
    refused(ResultError, "MM894", read, path)
    assert not is_result(tmp_path)


def test_a_number_that_rounds_to_zero_has_no_sign() -> None:
    found = estimate_as_json(Estimate(-1e-9, 1e-9, (-1e-9, 0.25), 2))
    assert str(found) == "{'mean': 0.0, 'error': 0.0, 'interval': [0.0, 0.25]}"
