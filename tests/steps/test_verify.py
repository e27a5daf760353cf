"""Step verify: the report, and what makes the step fail."""

import json
import os

import pytest

from mmbuild.core.steps.context import StepContext
from mmbuild.evaluation.gates import GateError
from mmbuild.steps import measure, verify
from mmbuild.steps.verify import VerifyError, require_agreement
from support import reports
from support.engines.loaded import DEMO, demo_directory, demo_engine, drawn
from support.errors import refused
from support.html_page import Page


@pytest.fixture(scope="module")
def report():
    (picture, _), *_ = drawn(1, 1)
    measures = measure.measure(
        demo_engine(),
        demo_directory(),
        {"model": DEMO},
        prompts=["how many ?"],
        images=[picture],
        max_new_tokens=6,
    )
    return verify.report_of(measures, {}, "model")


def with_difference(report, *, tie, quant_algo=None):
    """The report with a difference at the third token of its question."""
    difference = {
        "position": 2,
        "reference_token": 11,
        "engine_token": 12,
        "reference_logits": (5.0, 4.0),
        "engine_logits": (4.5, 4.75),
    }
    (entry,) = report["questions"]
    summary = {**report["summary"], "quant_algo": quant_algo}
    context = {"before": "two red", "reference": "circles", "engine": "squares"}
    request = {**entry, "tie": tie, "difference": difference, "context": context}
    return {**report, "summary": summary, "questions": [request]}


@pytest.mark.slow
def test_an_identical_engine_passes(report):
    require_agreement(report)


@pytest.mark.slow
def test_a_tie_passes(report):
    require_agreement(with_difference(report, tie=True))


@pytest.mark.slow
def test_a_difference_that_rounding_does_not_explain_fails_with_both_logits(report):
    error = refused(VerifyError, "MM560", require_agreement, with_difference(report, tie=False))
    assert error.message == (
        "the engine disagrees with transformers: image 1, prompt `how many ?`, token 3: after `two red` transformers "
        "has `circles` (token 11, logits 5.0000 over 4.0000), the engine has `squares` (token 12, logits 4.7500 over "
        "4.5000)"
    )


@pytest.mark.slow
def test_a_side_that_had_ended_is_named(report):
    entry = with_difference(report, tie=False)["questions"][0]
    difference = {
        **entry["difference"],
        "engine_token": None,
        "engine_logits": None,
        "reference_logits": None,
    }
    context = {**entry["context"], "engine": None}
    reported = verify.describe({**entry, "difference": difference, "context": context})
    assert reported.endswith("transformers has `circles` (token 11), the engine ends its answer")


@pytest.mark.slow
def test_a_long_prompt_is_shortened(report):
    entry = {**with_difference(report, tie=False)["questions"][0], "prompt": "why " * 500}
    assert len(verify.describe(entry)) < 300


@pytest.mark.slow
def test_a_quantized_engine_may_differ_within_its_gates(report):
    require_agreement(with_difference(report, tie=False, quant_algo="W4A16"))


def run(tmp_path, measures, gates, weights="model"):
    """Run the step; returns its output directory."""
    given, out = tmp_path / "measures", tmp_path / "out"
    (given / measure.PICTURES).mkdir(parents=True)
    out.mkdir()
    (given / measure.MEASURES).write_text(json.dumps(measures))
    params = {"algorithm": "int4", "gates": gates, "weights": weights}
    try:
        context = StepContext(params=params, inputs={"measures": given}, out=out, label="llava/int4/verify")
        verify.run(context)
    finally:
        assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]
    return out


def test_the_step_writes_verdicts_to_the_report_and_a_page_next_to_it(tmp_path):
    measures = reports.measures([0.01, 0.03], quant_algo="W4A16")
    out = run(tmp_path, measures, {"max_kl": {"bound": 0.5, "origin": "recipe"}})
    written = json.loads((out / "report.json").read_text())
    assert written["version"] == 3
    (verdict,) = written["gates"]
    assert (verdict["gate"], verdict["passed"]) == ("max_kl", True)
    assert verdict["value"] == pytest.approx(0.02)
    shown = Page((out / "report.html").read_text())
    assert {"llava/int4", "passed: 1 of 1 gates"} <= set(shown.text)
    (checked_on,) = [text for text in shown.text if text.startswith(f"{os.uname().nodename}: ")]
    assert " cores" in checked_on


def test_a_failed_gate_fails_the_step_and_keeps_the_report(tmp_path):
    measures = reports.measures([2.0, 3.0], quant_algo="W4A16")
    gates = {"max_kl": {"bound": 0.5, "origin": "recipe"}}
    error = refused(GateError, "MM590", run, tmp_path, measures, gates)
    assert "max_kl: mean KL over the answers 2.5 nats, at most 0.5, 2 too much" in error.message
    assert not json.loads((tmp_path / "out" / "report.json").read_text())["gates"][0]["passed"]


@pytest.mark.slow
def test_a_report_is_written_completely_or_not_at_all(report, tmp_path):
    refused(VerifyError, "MM562", verify.write, report, {}, tmp_path / "no" / "report.json", recipe="r")
    assert not (tmp_path / "no").exists()
