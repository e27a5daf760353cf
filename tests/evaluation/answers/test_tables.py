"""Results of eval as text."""

from __future__ import annotations

import pytest

from mmbuild.evaluation.answers import tables
from support.evaluated import result


def lines(answers: list[str], which: str | None, **more: str) -> list[str]:
    return list(tables.answer_lines(result(answers, **more), which))


def test_scores_with_intervals() -> None:
    text = tables.score_table(result(["two", "three"], missing=1))
    assert text.splitlines() == [
        "score         mean   95 % interval",
        "exact         0.500  0.000 to 1.000",
        "normalized *  0.500  0.000 to 1.000",
        "f1            0.500  0.000 to 1.000",
        "2 questions answered, 1 not answered",
    ]
    assert "exact         1.000  -" in tables.score_table(result(["two"]))


def test_wrong_answers_are_listed_with_their_questions() -> None:
    assert lines(["two", "three"], None) == [
        "",
        "line 2: normalized 0.000  2.png",
        "  prompt    how many ?",
        "  expected  two",
        "  answer    three",
    ]


def test_the_worst_answers_come_first() -> None:
    found = lines(["two", "about two", "three"], "all", headline="f1")
    assert [line.split(":")[0] for line in found if line.startswith("line")] == ["line 3", "line 2", "line 1"]


@pytest.mark.parametrize(("which", "count"), [(None, 10), ("wrong", 15), ("all", 16), ("none", 0)])
def test_how_many_are_listed(which: str | None, count: int) -> None:
    found = lines(["three"] * 15 + ["two"], which)
    assert sum(line.startswith("line") for line in found) == count
    assert ("5 other wrong answers; `--questions wrong` lists them" in found) == (which is None)


def test_hostile_and_long_texts_stay_on_their_line() -> None:
    found = lines(["\x1b[31mred\nline 9: exact", "x" * 1_000], "wrong")
    assert "  answer    \\u001b[31mred\\nline 9: exact" in found
    assert max(map(len, found)) < 400


def test_a_note_says_that_an_interval_has_no_width() -> None:
    assert "no width" in next(iter(tables.notes(result(["two", "two"]))))
    assert list(tables.notes(result(["two", "three"]))) == []
    assert list(tables.notes(result(["two"]))) == []
