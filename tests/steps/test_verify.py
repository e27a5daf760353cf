"""verify: the report, and what makes it fail."""

import json

import numpy as np
import pytest
from engines import DEMO, demo_directory, demo_engine, drawn
from errors_told import refused

from mmbuild.steps import verify
from mmbuild.steps.base import StepContext
from mmbuild.steps.verify import VerifyError, generated_pictures, judge, measure


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return path


def run(out, locators=None, prompts=("how many ?",), tokens=32):
    params = {"prompts": list(prompts), "max_new_tokens": tokens, "algorithm": "none"}
    inputs = {"engine": demo_directory(), "model": DEMO}
    verify.run(StepContext(params=params, inputs=inputs, locators=locators or {}, out=out))
    return json.loads((out / verify.REPORT).read_text())


def test_the_report_holds_every_question_and_no_time(out, tmp_path):
    locators = {}
    for number, (picture, _) in enumerate(drawn(1, 2)):
        locators[f"image{number}"] = str(tmp_path / f"{number}.png")
        picture.save(locators[f"image{number}"])
    report = run(out, locators, ["how many ?", "which shape ?"])
    asked = [(entry["image"], entry["prompt"]) for entry in report["questions"]]
    assert asked == [(1, "how many ?"), (1, "which shape ?"), (2, "how many ?"), (2, "which shape ?")]
    assert report["summary"]["identical"] == 4
    assert "seconds" not in json.dumps(report)


def test_the_same_inputs_give_the_same_report(out, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert run(out, tokens=8) == run(other, tokens=8)


def test_pictures_are_numbered_as_the_recipe_lists_them(out, tmp_path):
    rights = []
    locators = {}
    for number, (picture, questions) in enumerate(drawn(2, 11)):
        locators[f"image{number}"] = str(tmp_path / f"{number}.png")
        picture.save(locators[f"image{number}"])
        rights.append(next(q.answer for q in questions if q.kind == "count"))
    report = run(out, locators, tokens=2)
    assert [entry["answers"]["engine"].split()[0] for entry in report["questions"]] == rights


def test_without_prompts_and_pictures_it_asks_its_own(out):
    report = run(out, prompts=(), tokens=3)
    assert report["summary"]["questions"] == 2 * len(verify.DEFAULT_PROMPTS)


def test_generated_pictures_differ_and_are_always_the_same():
    first, second = (np.asarray(picture) for picture in generated_pictures((60, 80)))
    assert first.shape == second.shape == (60, 80, 3)
    assert (first != second).mean() > 0.5
    assert np.array_equal(first, np.asarray(generated_pictures((60, 80))[0]))


@pytest.fixture
def report():
    (picture, _), *_ = drawn(1, 1)
    return measure(demo_engine(), {"model": DEMO}, prompts=["how many ?"], images=[picture], max_new_tokens=6)


def parted(report, *, tie, quant_algo=None):
    """The report as if its question had parted at the third token."""
    difference = {
        "position": 2,
        "reference_token": 11,
        "engine_token": 12,
        "reference_logits": (5.0, 4.0),
        "engine_logits": (4.5, 4.75),
    }
    (entry,) = report["questions"]
    summary = {**report["summary"], "quant_algo": quant_algo}
    return {**report, "summary": summary, "questions": [{**entry, "tie": tie, "difference": difference}]}


def test_an_identical_engine_passes(report):
    judge(report)


def test_a_tie_passes(report):
    judge(parted(report, tie=True))


def test_a_difference_that_rounding_does_not_explain_fails_with_both_logits(report):
    error = refused(VerifyError, "MM560", judge, parted(report, tie=False))
    for words in ("image 1", "`how many ?`", "token 3", "11", "12", "5.0000", "4.0000", "4.7500", "4.5000"):
        assert words in error.message


def test_a_quantized_engine_is_not_judged(report):
    judge(parted(report, tie=False, quant_algo="W4A16"))


def test_a_report_is_whole_or_not_there(report, tmp_path):
    refused(VerifyError, "MM562", verify.write, report, tmp_path / "no" / "report.json")
    assert not (tmp_path / "no").exists()
