"""Results side by side."""

import json

import pytest

from mmbuild.serving.bench.comparison import compare_results, labels, rows
from mmbuild.serving.bench.document import ResultError, as_text
from mmbuild.serving.bench.workload import Workload
from support.errors import refused
from support.measured import answered, result, run


def keep(path, *runs, **more):
    path.write_text(as_text(result(*runs, **more)))
    return path


def test_equal_loads_are_next_to_each_other(tmp_path):
    ours = keep(
        tmp_path / "ours.json", *(run("batch", n, [answered()]) for n in (1, 4)), run("rate", 2, [answered()])
    )
    theirs = keep(tmp_path / "theirs.json", *(run("clients", n, [answered()]) for n in (4, 1)))
    found = compare_results([ours, theirs])
    assert [(row.result, row.cells[0]) for row in rows(found["results"])] == [
        ("ours", "batches of 1"),
        ("theirs", "1 at once"),
        ("ours", "batches of 4"),
        ("theirs", "4 at once"),
        ("ours", "2 per second"),
    ]
    assert found["notes"] == []
    assert "requests" not in found["results"][0]["runs"][0]
    json.dumps(found)


def test_what_is_not_comparable_is_noted(tmp_path):
    first = keep(tmp_path / "a.json")
    other = keep(tmp_path / "b.json", workload=Workload((), 32, ("x",), 8, False, 0))
    (note,) = compare_results([first, other])["notes"]
    what = "sizes of pictures, prompts, limits of tokens, treatment of end tokens"
    assert note == f"`b` and `a` differ in their {what}: their times are not comparable"


def test_other_hosts_and_notes_of_results(tmp_path):
    first = keep(tmp_path / "a.json")
    other = keep(tmp_path / "b.json", run("clients", 1, [answered()], client_cpu=0.9))
    data = json.loads(other.read_text())
    data["host"]["name"] = "elsewhere"
    other.write_text(json.dumps(data))
    hosts, busy = compare_results([first, other])["notes"]
    assert "different hosts" in hosts
    assert busy.startswith("`b`, 1 at once: the client used 90%")


def test_answers_of_other_lengths_are_noted(tmp_path):
    free = Workload((), 64, ("how many ?",), 4, False, 0)
    first = keep(tmp_path / "a.json", run("clients", 1, [answered(tokens=4)]), workload=free)
    other = keep(tmp_path / "b.json", run("clients", 1, [answered(tokens=2)]), workload=free)
    (note,) = compare_results([first, other])["notes"]
    assert "answers of 2.0 and 4.0 tokens on average" in note


def test_labels_are_unique(tmp_path):
    assert labels([tmp_path / "a.json", tmp_path / "b.json"]) == ["a", "b"]
    paths = [tmp_path / "x" / "a.json", tmp_path / "y" / "a.json"]
    assert labels(paths) == [str(path) for path in paths]


@pytest.mark.parametrize("text", ["", "{}"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    refused(ResultError, "MM865", compare_results, [tmp_path / "a.json"])
