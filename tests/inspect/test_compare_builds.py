"""Comparison of builds from the files in their directories."""

import json
import shutil
from pathlib import Path

import pytest

import mmbuild
from mmbuild.backends.engine_dir.description import LayoutError
from mmbuild.cli import main
from mmbuild.evaluation.bounds import bounds
from mmbuild.inspect.compare_builds import CompareError, compare
from mmbuild.steps import verify
from support import reports
from support.engines.build import with_manifest
from support.engines.loaded import demo_directory, drawn
from support.errors import refused


def make(directory, quantization="none", kls=(0.01, 0.02), *, model="m" * 64, kind="path", **same):
    """Directory of a demo engine with a manifest and a report, as written by apply."""
    shutil.copytree(demo_directory("float32", quantization), directory)
    actions = [
        {
            "step": "download",
            "artifact": model,
            "params": {"kind": kind},
            "seconds": 1.0,
            "peak_memory": 10**6,
        },
        {"step": "assemble", "artifact": "e" * 64, "seconds": 2.5, "peak_memory": 3 * 10**8},
    ]
    with_manifest(directory, actions=actions)
    (directory / "verify").mkdir()
    keep(directory / "verify", kls, **same)
    return directory


def keep(directory, kls, engine=None, **same):
    measures = reports.measures(kls, **same)
    report = verify.report_of(measures, bounds("int4", {}), "model", engine)
    verify.write(report, {}, directory / "report.json", recipe="one")


def rows(text):
    """Title -> cells of a printed table."""
    found = [line.split("  ") for line in text.splitlines() if line]
    return {cells[0]: [cell.strip() for cell in cells[1:] if cell.strip()] for cells in found}


@pytest.mark.slow
def test_a_table_has_a_column_for_each_build(tmp_path, capsys):
    whole, int4 = make(tmp_path / "whole"), make(tmp_path / "int4", "int4", (0.2, 0.4))
    assert main(["compare", str(whole), str(int4)]) == 0
    text = capsys.readouterr().out
    reported = rows(text)
    assert reported["quantization"] == ["none", "W4A16"]
    assert reported["mean KL, nats"] == ["0.015", "0.3"]
    assert reported["gates passed"] == ["2 of 2", "1 of 2"]
    assert reported["building took"] == ["3.5 s", "3.5 s"]
    assert reported["building's peak memory"] == ["300.0 MB", "300.0 MB"]
    assert "tokens/s" not in reported
    assert "note:" not in text
    assert "\x1b" not in text


@pytest.mark.slow
def test_sizes_are_those_of_the_files(tmp_path):
    whole, int4 = make(tmp_path / "whole"), make(tmp_path / "int4", "int4")
    first, second = compare([whole, int4])["builds"]
    assert first["bytes"]["weights"] == sum(p.stat().st_size for p in whole.rglob("*.safetensors"))
    assert first["bytes"]["packages"] == sum(p.stat().st_size for p in whole.rglob("*.pt2"))
    assert second["bytes"]["weights"] < first["bytes"]["weights"]


@pytest.mark.slow
def test_saved_profile_gives_the_speed(tmp_path, capsys):
    build = make(tmp_path / "whole")
    ((picture, _),) = drawn(3, 1)
    picture.save(tmp_path / "a.png")
    requested = ["--image", str(tmp_path / "a.png"), "--prompt", "how many ?"]
    assert main(["run", str(build), *requested, "--json"]) == 0
    (build / "profile.json").write_text(capsys.readouterr().out)
    (found,) = compare([build])["builds"]
    assert found["speed"]["tokens_per_second"] > 0
    assert found["speed"]["peak_bytes"] > 0
    assert main(["compare", str(build), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["builds"] == [found]


@pytest.mark.slow
def test_different_models_and_different_questions_are_not_comparable(tmp_path):
    first = make(tmp_path / "first")
    other = make(tmp_path / "other", model="n" * 64)
    requested = make(tmp_path / "asked", prompt="what colour ?")
    reported = compare([first, other, requested])["notes"]
    assert len(reported) == 2
    assert "different models" in reported[0]
    assert str(other) in reported[0]
    assert "different questions" in reported[1]
    assert str(requested) in reported[1]


@pytest.mark.slow
def test_random_weights_have_no_quality(tmp_path):
    (note,) = compare([make(tmp_path / "dummy", kind="dummy")])["notes"]
    assert "random" in note


@pytest.mark.slow
def test_later_verify_of_the_same_engine_overrides_the_report_of_apply(tmp_path):
    build = make(tmp_path / "build", kls=(0.1, 0.1))
    keep(build, (0.5, 0.5), engine="e" * 64)
    assert compare([build])["builds"][0]["quality"]["max_kl"] == pytest.approx(0.5)


@pytest.mark.slow
def test_report_of_an_earlier_engine_is_ignored(tmp_path):
    build = make(tmp_path / "build", kls=(0.1, 0.1))
    keep(build, (0.5, 0.5), engine="f" * 64)
    assert compare([build])["builds"][0]["quality"]["max_kl"] == pytest.approx(0.1)


@pytest.mark.slow
def test_an_engine_without_manifest_and_report_has_its_precision_and_size(tmp_path, capsys):
    build = Path(shutil.copytree(demo_directory("float32", "int4"), tmp_path / "bare"))
    (build / "manifest.json").unlink()
    assert main(["compare", str(build)]) == 0
    reported = rows(capsys.readouterr().out)
    assert reported["quantization"] == ["W4A16"]
    assert "mean KL, nats" not in reported
    assert "building took" not in reported


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 2}'])
def test_unreadable_report_is_an_error(tmp_path, text):
    build = make(tmp_path / "build")
    (build / "verify" / "report.json").write_text(text)
    refused(CompareError, "MM596", compare, [build])


@pytest.mark.slow
def test_answers_of_the_upstream_runner_do_not_count_as_quality(tmp_path):
    build = make(tmp_path / "build")
    data = {"version": 1, "summary": {"questions": 1, "compared": False}, "questions": []}
    (build / "verify" / "report.json").write_text(json.dumps(data))
    assert compare([build])["builds"][0]["quality"] is None


@pytest.mark.slow
def test_engine_of_tensorrt_llm_has_the_requested_precision(tmp_path):
    build = make(tmp_path / "build")
    description = json.loads((build / "engine.json").read_text())
    variables = {"dtype": "float16", "algorithm": "int4_awq"}
    description |= {"backend": "tensorrt-llm", "llm": {"tensor_parallel": 2, "variables": variables}}
    description["toolchain"] = {"tensorrt-llm": "0.9.0"}
    (build / "engine.json").unlink()
    (build / "engine.json").write_text(json.dumps(description))
    (found,) = compare([build])["builds"]
    assert (found["dtype"], found["quant_algo"], found["ranks"]) == ("float16", "int4_awq", 2)


def test_directory_that_is_not_an_engine_is_reported(tmp_path):
    refused(LayoutError, "MM540", compare, [tmp_path])


@pytest.mark.slow
def test_python_api(tmp_path):
    build = make(tmp_path / "build")
    assert mmbuild.compare([build]) == compare([build])
