"""Cells of tables, failures and notes."""

import pytest

from mmbuild.serving.bench.rows import failure_lines, milliseconds, notes, row_of
from support.measured import WORKLOAD, answered, failed, result, run


def test_a_row():
    found = result(run("clients", 2, [answered(), answered(wait=0.2), failed()]))
    assert row_of("a", found["runs"][0]).cells == (
        "2 at once",
        "2",
        "1",
        "8.70",
        "34.8",
        "150 / 190 / 199",
        "10.0 / 10.0 / 10.0",
        "180 / 220 / 229",
    )


def test_what_does_not_exist_is_a_dash():
    found = result(run("rate", 2, [failed()]))
    assert row_of("a", found["runs"][0]).cells[-3:] == ("-", "-", "-")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00123, "1.2"), (0.09994, "99.9"), (0.09996, "100"), (12.3456, "12,346"), (0.0, "0.0")],
)
def test_milliseconds(seconds, text):
    assert milliseconds(seconds) == text


def test_failures_have_status_and_code():
    assert failure_lines(result()) == ["2 at once: 1 failed: HTTP 429, rate_limit_exceeded: slow down"]


def of(target, **more):
    records = more.pop("records", [answered(), answered()])
    return notes(
        result(run("clients", 1, records, **more), target={"kind": target, "name": "a"}, workload=WORKLOAD)
    )


def test_notes_say_what_may_be_wrong():
    assert of("server") == []
    assert "chunks of text" in of("server", records=[answered(counted="chunks")])[0]
    assert "95% of a CPU core" in of("server", client_cpu=0.95)[0]
    assert "200 ms late" in of("server", records=[answered(sent=0.2, wait=0.3)])[0]
    assert "1 different" in of("server", distinct_questions=1)[0]
    assert of("engine", records=[answered(sent=0.2, wait=0.3)], distinct_questions=1, client_cpu=None) == []


def test_answers_of_other_lengths_are_noted():
    records = [answered(tokens=2), answered(tokens=3), answered(tokens=9, counted="chunks")]
    _, note = of("server", records=records)
    assert "answers have 2 to 3 tokens instead of 4" in note
    assert "answers have 2 tokens instead" in of("server", records=[answered(tokens=2)])[0]
