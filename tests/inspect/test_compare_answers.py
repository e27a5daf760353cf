"""Answers of several builds to the same questions, from reports on disk."""

import json

import pytest

from mmbuild.evaluation.bounds import bounds
from mmbuild.inspect.compare_answers import side_by_side
from mmbuild.inspect.compare_builds import CompareError
from mmbuild.steps import verify
from support import reports
from support.errors import refused

STAR, DISC = "5" * 64, "d" * 64


def compared(directory, answers, pictures=(STAR, DISC), model="three"):
    """A report as verify writes it; ``answers``: (number of the picture, prompt) -> the engine's answer."""
    questions = [
        {
            **reports.question(0.01),
            "image": image,
            "prompt": prompt,
            "answers": {"engine": text, "reference": model},
        }
        for (image, prompt), text in answers.items()
    ]
    measures = {**reports.of(questions), "pictures": list(pictures)}
    (directory / "verify").mkdir(parents=True)
    report = verify.report_of(measures, bounds("int4", {}), "model", None)
    verify.write(report, {}, directory / "verify" / "report.json", recipe="demo")
    return directory


def answered(directory, answers):
    """A report of backend tensorrt-llm; ``answers``: (file name of the picture, prompt) -> answer."""
    questions = [
        {"image": image, "prompt": prompt, "answer": text} for (image, prompt), text in answers.items()
    ]
    report = {
        "version": 1,
        "summary": {"questions": len(questions), "compared": False},
        "questions": questions,
    }
    (directory / "verify").mkdir(parents=True)
    (directory / "verify" / "report.json").write_text(json.dumps(report))
    return directory


def test_questions_of_both_are_put_side_by_side_with_the_model_s_answer(tmp_path):
    one = compared(tmp_path / "one", {(1, "how many ?"): "three", (2, "how many ?"): "three"})
    other = compared(tmp_path / "other", {(1, "how many ?"): "three", (2, "how many ?"): "two"})
    found = side_by_side([one, other])
    assert found["builds"] == [str(one), str(other)]
    assert found["questions"] == [
        {"image": 1, "prompt": "how many ?", "answers": ["three", "three"], "model": "three", "equal": True},
        {"image": 2, "prompt": "how many ?", "answers": ["three", "two"], "model": "three", "equal": False},
    ]


def test_pictures_are_known_by_their_digests(tmp_path):
    one = compared(tmp_path / "one", {(1, "what ?"): "star", (2, "what ?"): "disc"})
    turned = compared(tmp_path / "other", {(1, "what ?"): "disc", (2, "what ?"): "star"}, (DISC, STAR))
    found = side_by_side([one, turned])["questions"]
    assert [(item["image"], item["answers"]) for item in found] == [(1, ["star"] * 2), (2, ["disc"] * 2)]


def test_beside_tensorrt_llm_pictures_are_known_by_their_numbers(tmp_path):
    old = answered(
        tmp_path / "old",
        {("a.png", "what ?"): "star", ("b.png", "what ?"): "ring", ("b.png", "where ?"): "left"},
    )
    new = compared(tmp_path / "new", {(1, "what ?"): "star", (2, "what ?"): "disc"}, model="disc")
    for builds in ([old, new], [new, old]):
        found = side_by_side(builds)["questions"]
        assert [item["equal"] for item in found] == [True, False]
        assert [item["model"] for item in found] == ["disc", "disc"]
        assert set(found[1]["answers"]) == {"ring", "disc"}


def test_two_builds_of_tensorrt_llm_have_no_answers_of_the_model(tmp_path):
    builds = [answered(tmp_path / name, {("a.png", None): "a page"}) for name in ("0.9", "1.2")]
    (only,) = side_by_side(builds)["questions"]
    assert only == {"image": 1, "prompt": None, "answers": ["a page"] * 2, "model": None, "equal": True}


def test_only_questions_that_all_were_asked_are_listed(tmp_path):
    builds = [
        compared(tmp_path / "a", {(1, "one ?"): "x", (1, "two ?"): "x"}),
        compared(tmp_path / "b", {(1, "two ?"): "x", (1, "three ?"): "x"}),
        compared(tmp_path / "c", {(1, "two ?"): "y"}),
    ]
    (only,) = side_by_side(builds)["questions"]
    assert (only["prompt"], only["answers"]) == ("two ?", ["x", "x", "y"])


def test_a_build_without_a_report_is_named_and_left_out(tmp_path):
    build = compared(tmp_path / "a", {(1, "one ?"): "x"})
    (tmp_path / "bare").mkdir()
    found = side_by_side([build, tmp_path / "bare"])
    assert found["builds"] == [str(build)]
    assert found["left_out"] == [str(tmp_path / "bare")]


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report["questions"][0].update(answer=3),
        lambda report: report["questions"][0].pop("prompt"),
        lambda report: report.update(questions={"a": 1}),
        lambda report: report["questions"].append("x"),
    ],
    ids=["answer", "prompt", "questions", "entry"],
)
def test_a_damaged_report_of_tensorrt_llm_is_refused(tmp_path, damage):
    build = answered(tmp_path / "old", {("a.png", "what ?"): "star"})
    path = build / "verify" / "report.json"
    report = json.loads(path.read_text())
    damage(report)
    path.write_text(json.dumps(report))
    refused(CompareError, "MM596", side_by_side, [build])


def test_a_report_whose_answers_are_missing_is_refused(tmp_path):
    build = compared(tmp_path / "one", {(1, "how many ?"): "three"})
    path = build / "verify" / "report.json"
    report = json.loads(path.read_text())
    del report["questions"][0]["answers"]
    path.write_text(json.dumps(report))
    refused(CompareError, "MM596", side_by_side, [build])
