"""``mmbuild verify`` as a user sees it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbuild.cli import main
from support.engines.build import with_manifest
from support.engines.loaded import DEMO, demo_directory, drawn


@pytest.fixture
def build(tmp_path):
    """The demo engine in its own build directory."""
    return Path(shutil.copytree(demo_directory(), tmp_path / "build"))


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, (picture, _) in zip(paths, drawn(31, 2), strict=True):
        picture.save(path)
    return [str(path) for path in paths]


def verified(capsys, *arguments, status=0):
    assert main(["verify", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured


def questions(pictures):
    images = [word for path in pictures for word in ("--image", path)]
    return [*images, "--prompt", "how many ?", "--prompt", "describe the picture ."]


@pytest.mark.slow
def test_an_engine_of_full_precision_gives_the_same_answers(build, pictures, capsys):
    reported = verified(capsys, build, "--model", DEMO, *questions(pictures))
    assert "4 of 4 answers have the same tokens up to the end token" in reported.out
    assert str(build / "report.json") in reported.err
    report = json.loads((build / "report.json").read_text())
    assert report["summary"]["identical"] == report["summary"]["questions"] == 4
    assert report["summary"]["answer_agreement"] == 1.0
    for entry in report["questions"]:
        assert entry["reference_tokens"] == entry["engine_tokens"]
        count = len(entry["engine_tokens"])
        assert f"{count}/{count}" in reported.out


@pytest.mark.slow
def test_without_pictures_and_prompts_synthetic_ones_are_used(build, capsys):
    reported = verified(capsys, build, "--model", DEMO, "--max-new-tokens", 4, "--json")
    report = json.loads(reported.out)
    assert {entry["image"] for entry in report["questions"]} == {1, 2}
    assert report["max_new_tokens"] == 4
    assert max(len(entry["reference_tokens"]) for entry in report["questions"]) == 4


@pytest.mark.slow
def test_an_answer_is_compared_up_to_its_end(build, pictures, capsys):
    reported = verified(
        capsys, build, "--model", DEMO, "--image", pictures[0], "--prompt", "how many ?", "--json"
    )
    (entry,) = json.loads(reported.out)["questions"]
    assert len(entry["engine_tokens"]) == 2
    assert len(entry["answers"]["engine"].split()) == 1


@pytest.mark.slow
def test_report_is_written_to_the_requested_path(build, pictures, tmp_path, capsys):
    out = tmp_path / "elsewhere.json"
    verified(capsys, build, "--model", DEMO, *questions(pictures[:1]), "--output", out)
    assert json.loads(out.read_text())["version"] == 3
    assert "<svg" in out.with_suffix(".html").read_text()
    assert not (build / "report.json").exists()
    assert not (build / "report.html").exists()


@pytest.mark.slow
def test_unwritable_report_is_an_error(build, pictures, tmp_path, capsys):
    out = tmp_path / "no" / "such" / "directory.json"
    reported = verified(capsys, build, "--model", DEMO, *questions(pictures[:1]), "--output", out, status=1)
    assert "[MM562]" in reported.err
    assert str(out) in reported.err


@pytest.mark.slow
def test_an_engine_that_disagrees_fails_and_shows_both_logits(build, pictures, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(DEMO, model)
    weights = load_file(model / "model.safetensors")
    head = next(name for name in weights if name.endswith("lm_head.weight"))
    # Another row for every word: what was most likely no longer is.
    save_file({**weights, head: weights[head].roll(1, 0).contiguous()}, model / "model.safetensors")
    reported = verified(capsys, build, "--model", model, *questions(pictures), status=1)
    assert "[MM560]" in reported.err
    assert "transformers has `" in reported.err
    assert "the engine has `" in reported.err
    assert "first difference" in reported.out
    assert json.loads((build / "report.json").read_text())["summary"]["identical"] < 4


@pytest.fixture
def int4(tmp_path):
    """The int4 demo engine in its own build directory."""
    return Path(shutil.copytree(demo_directory("float32", "int4"), tmp_path / "int4"))


@pytest.mark.slow
def test_quantized_engine_passes_the_gates_of_its_precision(int4, pictures, capsys):
    reported = verified(capsys, int4, "--model", DEMO, *questions(pictures), "--json")
    report = json.loads(reported.out)
    summary = report["summary"]
    assert summary["quant_algo"] == "W4A16"
    assert 0 < summary["mean_kl"] <= summary["max_kl"]
    assert summary["answer_agreement"] == 1.0
    assert [(gate["gate"], gate["bound"], gate["passed"]) for gate in report["gates"]] == [
        ("max_kl", 0.06, True),
        ("max_perplexity_ratio", 1.06, True),
    ]
    (picture, *_) = report["pictures"]
    assert len(picture) == 64
    page = (int4 / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "passed" in page


@pytest.mark.slow
def test_scales_in_the_wrong_rows_are_refused(int4, pictures, capsys):
    rank = int4 / "llm" / "rank0.safetensors"
    weights = load_file(rank)
    wrong = next(name for name in weights if name.endswith("layers.0.mlp.fc.per_channel_scale"))
    rank.unlink()  # it may be a link to what other tests read
    save_file({**weights, wrong: weights[wrong].flip(0).contiguous() * 8}, rank)
    assert "`llm/rank0.safetensors` has" in verified(capsys, int4, "--model", DEMO, status=1).err
    reported = verified(capsys, int4, "--no-check", "--model", DEMO, *questions(pictures), status=1)
    assert "[MM590]" in reported.err
    assert "max_kl" in reported.err
    assert "at most 0.06" in reported.err
    assert "gate FAILED: max_kl" in reported.out
    assert "failed" in (int4 / "report.html").read_text()


def recorded(build, **entry):
    with_manifest(build, actions=[], refused=[entry])


@pytest.mark.slow
def test_gates_are_those_of_apply(int4, pictures, capsys):
    gates = {"max_kl": {"bound": 0.0, "origin": "recipe"}}
    recorded(int4, step="verify", params={"gates": gates, "weights": "model"})
    reported = verified(capsys, int4, "--model", DEMO, *questions(pictures[:1]), status=1)
    assert "at most 0," in reported.err
    assert "max_perplexity_ratio" not in reported.err


@pytest.mark.slow
def test_random_weights_are_measured_but_not_gated(int4, pictures, capsys):
    recorded(int4, step="download", params={"kind": "dummy"})
    reported = verified(capsys, int4, "--model", DEMO, *questions(pictures[:1]))
    assert "the weights are random" in reported.out
    assert json.loads((int4 / "report.json").read_text())["gates"] == []


@pytest.mark.slow
def test_build_without_a_manifest_is_refused_and_with_no_check_needs_a_model(build, tmp_path, capsys):
    (build / "manifest.json").unlink()
    assert "[MM760]" in verified(capsys, build, status=1).err
    reported = verified(capsys, build, "--no-check", "--store", tmp_path / "store", status=1)
    assert "[MM561]" in reported.err
    assert "--model" in reported.err


@pytest.mark.slow
def test_model_missing_from_the_store_is_reported(build, tmp_path, capsys):
    entry = {"step": "download", "artifact": "0" * 64}
    with_manifest(build, actions=[entry])
    reported = verified(capsys, build, "--store", tmp_path / "store", status=1)
    assert "[MM561]" in reported.err
    assert str(tmp_path / "store") in reported.err


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"actions": 7}', '{"actions": [{}]}'])
def test_damaged_manifest_is_refused_and_with_no_check_treated_as_missing(build, tmp_path, text, capsys):
    (build / "manifest.json").unlink()
    (build / "manifest.json").write_text(text)
    assert "[MM763]" in verified(capsys, build, "--store", tmp_path / "store", status=1).err
    unchecked = verified(capsys, build, "--no-check", "--store", tmp_path / "store", status=1)
    assert "[MM561]" in unchecked.err


@pytest.mark.slow
def test_model_directory_without_weights_is_reported(build, tmp_path, pictures, capsys):
    (tmp_path / "model").mkdir()
    reported = verified(capsys, build, "--model", tmp_path / "model", *questions(pictures), status=1)
    assert "[MM563]" in reported.err
    assert str(tmp_path / "model") in reported.err


def test_directory_that_is_not_an_engine_is_reported(tmp_path, capsys):
    assert "[MM540]" in verified(capsys, tmp_path, status=1).err


def test_the_reference_s_tensors_are_those_of_the_demo_model():
    """The roll above changes something: rows of the head differ."""
    weights = load_file(DEMO / "model.safetensors")
    head = next(tensor for name, tensor in weights.items() if name.endswith("lm_head.weight"))
    assert not torch.equal(head, head.roll(1, 0))
