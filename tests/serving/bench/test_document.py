"""Results as JSON."""

import json

import pytest

from mmbuild.serving.bench.document import ResultError, as_text, load, read
from mmbuild.serving.bench.load import Load
from support.errors import refused
from support.measured import answered, result, run


def test_a_result_survives_its_file(tmp_path):
    expected = result()
    path = tmp_path / "a.json"
    path.write_text(as_text(expected))
    assert read(path) == json.loads(json.dumps(expected))
    assert load(read(path)["runs"][0]) == Load("clients", 1)


def test_it_says_what_was_measured_where_and_when():
    found = result()
    assert (found["format"], found["version"], found["date"]) == (
        "mmbuild-bench",
        1,
        "2026-11-30T09:00:00+00:00",
    )
    assert found["host"]["cores"] >= 1
    assert found["workload"]["prompts"] == ("how many ?",)
    first = found["runs"][0]["requests"][0]
    assert first["first"] == 0.1
    assert first["failure"] is None
    assert found["runs"][1]["requests"][-1]["failure"]["status"] == 429


def test_each_request_is_a_line():
    text = as_text(result(run("clients", 1, [answered()] * 5)))
    assert sum('"due"' in line for line in text.splitlines()) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(format="other"), "not a result"),
        (lambda data: data.update(version=99), "version 99"),
        (lambda data: data.update(runs=[]), "runs"),
        (lambda data: data.pop("host"), "host"),
        (lambda data: data["runs"][0]["load"].update(kind="x"), "kind"),
        (lambda data: data["runs"][0]["summary"].update(whole={"p50": 1}), "whole"),
        (lambda data: data["runs"][0]["requests"][0].update(tokens=-1), "tokens"),
        (lambda data: data["workload"].update(max_tokens="4"), "max_tokens"),
    ],
)
def test_damaged_results_are_refused(tmp_path, change, words):
    data = json.loads(as_text(result()))
    change(data)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    assert words in refused(ResultError, "MM865", read, path).message


@pytest.mark.parametrize("text", ["", "[]", "{}", "text"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    refused(ResultError, "MM865", read, tmp_path / "a.json")
    refused(ResultError, "MM865", read, tmp_path / "missing.json")
