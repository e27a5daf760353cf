"""Step measure: compares engine and reference on every question."""

import json
from dataclasses import replace
from importlib.metadata import version
from math import nan

import numpy as np
import pytest
import torch

from mmbuild.backends.torch import parity
from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import EngineError
from mmbuild.models.validation.prompts import DEFAULT_PROMPTS
from mmbuild.steps import measure
from mmbuild.steps.measure import InputError, generated_pictures
from support.engines.loaded import DEMO, demo_directory, demo_engine, drawn
from support.errors import refused


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return path


def run(out, locators=None, prompts=("how many ?",), tokens=32):
    params = {"prompts": list(prompts), "max_new_tokens": tokens}
    inputs = {"engine": demo_directory(), "model": DEMO}
    measure.run(StepContext(params=params, inputs=inputs, locators=locators or {}, out=out))
    return json.loads((out / measure.MEASURES).read_text())


@pytest.mark.slow
def test_the_result_holds_every_question_and_no_time(out, tmp_path):
    locators = {}
    for number, (picture, _) in enumerate(drawn(1, 2)):
        locators[f"image{number}"] = str(tmp_path / f"{number}.png")
        picture.save(locators[f"image{number}"])
    report = run(out, locators, ["how many ?", "which shape ?"])
    requested = [(entry["image"], entry["prompt"]) for entry in report["questions"]]
    assert requested == [(1, "how many ?"), (1, "which shape ?"), (2, "how many ?"), (2, "which shape ?")]
    assert report["summary"]["identical"] == 4
    assert "seconds" not in json.dumps(report)


@pytest.mark.slow
def test_the_engine_is_described_with_its_versions_and_sizes(out):
    found = run(out, tokens=1)["description"]
    sizes = {
        kind: sum(path.stat().st_size for path in demo_directory().rglob(f"*{suffix}"))
        for kind, suffix in (("weights", ".safetensors"), ("packages", ".pt2"))
    }
    assert found["bytes"] == sizes
    assert (found["family"], found["backend"], found["target"]["device"]) == ("llava", "torch", "cpu")
    assert found["versions"] == {"torch": version("torch")}
    assert set(found["limits"]) == {"max_batch_size", "max_input_len", "max_output_len", "tensor_parallel"}


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(out, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert run(out, tokens=8) == run(other, tokens=8)
    files = sorted(path.relative_to(out) for path in out.rglob("*.*"))
    assert [str(path) for path in files] == ["measures.json", "pictures/1.png", "pictures/2.png"]
    assert all((out / path).read_bytes() == (other / path).read_bytes() for path in files)


@pytest.mark.slow
def test_pictures_are_numbered_as_the_recipe_lists_them(out, tmp_path):
    correct = []
    locators = {}
    for number, (picture, questions) in enumerate(drawn(2, 11)):
        locators[f"image{number}"] = str(tmp_path / f"{number}.png")
        picture.save(locators[f"image{number}"])
        correct.append(next(q.answer for q in questions if q.kind == "count"))
    report = run(out, locators, tokens=2)
    assert [entry["answers"]["engine"].split()[0] for entry in report["questions"]] == correct


@pytest.mark.slow
def test_default_prompts_and_pictures_are_used_if_none_are_given(out):
    report = run(out, prompts=(), tokens=3)
    assert report["summary"]["questions"] == 2 * len(DEFAULT_PROMPTS)


def test_generated_pictures_differ_and_are_always_the_same():
    first, second = (np.asarray(picture) for picture in generated_pictures((60, 80)))
    assert first.shape == second.shape == (60, 80, 3)
    assert (first != second).mean() > 0.5
    assert np.array_equal(first, np.asarray(generated_pictures((60, 80))[0]))


@pytest.mark.slow
def test_every_number_is_over_the_answer_up_to_its_end_token(out):
    report = run(out, tokens=12)
    ends = demo_engine().description.eos_token_ids
    total = 0
    for entry in report["questions"]:
        answer = entry["reference_tokens"]
        total += len(answer)
        assert (
            len(entry["kl"])
            == len(entry["reference_log_probs"])
            == len(entry["engine_log_probs"])
            == len(answer)
        )
        assert not set(answer[:-1]) & set(ends)
        assert answer[-1] in ends or len(answer) == 12
        assert max(entry["reference_log_probs"]) <= 0
    summary = report["summary"]
    assert (summary["tokens"], summary["equal_tokens"]) == (total, total)
    kls = [value for entry in report["questions"] for value in entry["kl"]]
    assert summary["mean_kl"] == pytest.approx(sum(kls) / total, abs=1e-12)


@pytest.mark.slow
def test_a_converted_picture_is_named_and_both_sides_see_it(out, tmp_path):
    (picture, _), *_ = drawn(1, 1)
    picture.convert("RGBA").save(tmp_path / "a.png")
    report = run(out, {"image0": str(tmp_path / "a.png")}, tokens=3)
    assert report["conversions"] == {"1": "transparency composited on white"}
    assert report["summary"]["identical"] == 1


def faulty(processor, change):
    """The demo engine's processor with ``change`` applied to its requests."""
    return replace(processor, encode=lambda prompt, pictures: change(processor.encode(prompt, pictures)))


def measured_with(monkeypatch, change):
    (picture, _), *_ = drawn(5, 1)
    engine = demo_engine()
    monkeypatch.setattr(engine, "processor", faulty(engine.processor, change))
    return measure.measure(
        engine,
        demo_directory(),
        {"model": DEMO},
        prompts=["how many ?"],
        images=[picture],
        max_new_tokens=3,
    )


@pytest.mark.slow
def test_a_prompt_that_differs_from_transformers_has_its_own_error(monkeypatch):
    def twice(request):
        return replace(request, ids=(request.ids[0], *request.ids))

    error = refused(InputError, "MM597", measured_with, monkeypatch, twice)
    for words in ("image 1", "`how many ?`", "token 2", "instead of"):
        assert words in error.message


@pytest.mark.slow
def test_pixels_that_differ_from_transformers_have_their_own_error(monkeypatch):
    def mirrored(request):
        return replace(request, pixels=request.pixels.flip(-1))

    error = refused(InputError, "MM598", measured_with, monkeypatch, mirrored)
    for words in ("image 1", "`how many ?`", "of the pixel values"):
        assert words in error.message
    assert (
        "shape"
        in refused(
            InputError,
            "MM598",
            measured_with,
            monkeypatch,
            lambda request: replace(request, pixels=request.pixels[..., 1:]),
        ).message
    )


@pytest.mark.slow
def test_logits_that_are_not_numbers_are_reported_with_the_question_and_the_side(monkeypatch):
    real = parity._teacher_forced
    monkeypatch.setattr(
        parity, "_teacher_forced", lambda *given: real(*given).index_fill(0, torch.tensor([1]), nan)
    )
    (picture, _), *_ = drawn(5, 1)
    error = refused(
        EngineError, "MM591", measure.measure, demo_engine(), demo_directory(), {"model": DEMO},
        prompts=["how many ?"], images=[picture], max_new_tokens=3,
    )  # fmt: skip
    for words in ("image 1", "`how many ?`", "the engine", "token 2"):
        assert words in error.message
