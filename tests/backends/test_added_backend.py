"""A backend from another distribution: one module and one entry point are enough."""

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import mmbuild
from mmbuild.backends import table
from mmbuild.base.errors import MmbuildError
from mmbuild.cli import main
from mmbuild.schema import backend_names

SOURCE = Path(mmbuild.__file__).parent
MODEL = SOURCE.parents[1] / "examples" / "models" / "llava-shapes"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A project, and an installed distribution with the entry point."""
    information = tmp_path / "site" / "toy_backend-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-backend\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[mmbuild.backends]\ntoy = support.backends.toy:BACKEND\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    backend_names.added.cache_clear()
    table.backend.cache_clear()
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").touch()
    shutil.copytree(MODEL, project / "model")
    (project / "recipe.yaml").write_text(
        "version: 1\nname: toy-llava\nmodel: {family: llava, source: model}\n"
        "engine: {backend: toy, dtype: float32, max_batch_size: 1, max_input_len: 96, max_output_len: 8}\n"
    )
    monkeypatch.chdir(project)
    monkeypatch.setenv("MMBUILD_STORE", str(tmp_path / "store"))
    yield project
    backend_names.added.cache_clear()
    table.backend.cache_clear()


def run(capsys, *arguments):
    status = main(list(arguments))
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_recipe_is_validated_planned_built_and_locked(toy, capsys):
    assert run(capsys, "validate", "recipe.yaml")[0] == 0
    status, _, err = run(capsys, "apply", "recipe.yaml")
    assert status == 0, err
    assert (toy / "build/toy-llava/engine.txt").read_text() == "llava"
    status, _, err = run(capsys, "lock", "recipe.yaml")
    assert status == 0, err
    (lock,) = toy.glob("*.lock")
    assert "toy 1.0:" in lock.read_text()


@pytest.mark.usefixtures("toy")
def test_its_engine_is_run_verified_and_checked_against_this_host(capsys):
    assert run(capsys, "apply", "recipe.yaml")[0] == 0
    build = "build/toy-llava"
    noted = "note: a toy\nnote: there is no --image: the model saw no picture\n"
    assert run(capsys, "run", build, "--prompt", "hello") == (0, "llava: hello\n", noted)
    _, out, _ = run(capsys, "run", build, "--prompt", "hello", "--json")
    assert json.loads(out) == {"answers": [{"images": [], "prompt": "hello", "text": "llava: hello"}]}
    assert run(capsys, "verify", build) == (0, "toys are always right\n", "")
    assert "needs 1.0; here 1.0" in run(capsys, "compat", build)[1]
    status, _, err = run(capsys, "run", build, "--prompt", "hello", "--num-beams", "2")
    assert status == 2
    assert (
        "--num-beams: `mmbuild run` does not support these options for engines of this backend [MM705]" in err
    )


def test_its_answers_are_scored_as_far_as_its_runner_takes_the_questions(toy, capsys):
    assert run(capsys, "apply", "recipe.yaml")[0] == 0
    words = ("eval", "build/toy-llava", "--data", "questions.jsonl")
    data = toy / "questions.jsonl"
    data.write_text(
        '{"prompt": "a", "answer": "llava: a"}\n{"prompt": "b", "answer": ["no", "LLaVA the b"]}\n'
    )
    status, out, err = run(capsys, *words, "--json")
    assert (status, err) == (0, "note: a toy\n")
    scores = {name: score["mean"] for name, score in json.loads(out)["scores"].items()}
    assert scores == {"exact": 0.5, "normalized": 1.0, "f1": 1.0}
    status, _, err = run(capsys, *words, "--max-new-tokens", "2")
    assert (status, "--max-new-tokens: `mmbuild eval` does not support" in err) == (2, True)
    data.write_text('{"image": "model/page.png", "prompt": "a", "answer": "x"}\n')
    Image.new("RGB", (4, 4)).save(toy / "model/page.png")
    status, _, err = run(capsys, *words)
    assert (status, "the questions have pictures, which the runner of" in err) == (2, True)
    assert "[MM893]" in err


@pytest.mark.usefixtures("toy")
def test_what_it_cannot_build_is_reported_at_the_recipe_line(capsys):
    status, _, err = run(capsys, "validate", "recipe.yaml", "--set", "engine.tensor_parallel=2")
    assert status == 1
    assert "toys have one rank [MM199]" in err


@pytest.mark.usefixtures("toy")
def test_its_script_is_written_unless_a_toolchain_is_named(capsys):
    assert run(capsys, "script", "recipe.yaml")[1] == "play build/toy-llava\n"
    assert "play" not in run(capsys, "script", "recipe.yaml", "--toolchain", "0.12.0")[1]


@pytest.mark.usefixtures("toy")
def test_doctor_runs_its_checks(capsys):
    _, out, err = run(capsys, "doctor", "recipe.yaml", "--quick", "--json")
    groups = {group["title"]: group for group in json.loads(out)["groups"]}
    assert groups["toys"]["checks"][0]["name"] == "toy box", err
    assert any(check["name"] == "gpu" for check in groups["host"]["checks"])


def test_a_row_in_mmbuild_s_own_table_does_the_same(toy, capsys, monkeypatch):
    shutil.rmtree(toy.parent / "site")
    backend_names.added.cache_clear()
    assert run(capsys, "validate", "recipe.yaml")[0] == 1
    rows = {**backend_names.BUILT_IN, "toy": "support.backends.toy:BACKEND"}
    for module in (backend_names, table):
        monkeypatch.setattr(module, "BUILT_IN", rows)
    status, _, err = run(capsys, "apply", "recipe.yaml")
    assert status == 0, err
    assert run(capsys, "run", "build/toy-llava", "--prompt", "x")[1] == "llava: x\n"


@pytest.mark.usefixtures("toy")
def test_an_unknown_backend_is_refused_with_the_available_ones(capsys):
    status, _, err = run(capsys, "validate", "recipe.yaml", "--set", "engine.backend=onnx")
    assert status == 1
    assert "engine.backend" in err
    with pytest.raises(MmbuildError, match="unknown backend `onnx`") as caught:
        table.backend("onnx")
    assert "tensorrt-llm, torch, hf, toy" in caught.value.hint


@pytest.mark.usefixtures("toy")
def test_an_entry_point_that_cannot_be_imported_is_refused(monkeypatch):
    monkeypatch.setattr(table, "added", lambda: {"broken": "nothing.here:BACKEND"})
    with pytest.raises(MmbuildError, match="cannot be loaded") as caught:
        table.backend("broken")
    assert caught.value.code == "MM232"


NAMES = {"torch", "tensorrt-llm"}


def comparisons(path):
    """Lines of ``path`` that compare a backend's name, or a member of its enumeration."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            about = any(isinstance(side, ast.Attribute) and side.attr == "backend" for side in sides)
            named = any(isinstance(side, ast.Constant) and side.value in NAMES for side in sides)
            member = any(
                isinstance(side, ast.Attribute)
                and isinstance(side.value, ast.Name)
                and side.value.id in ("Backend", "VisualBackend")
                for side in sides
            )
            if (about and named) or member:
                yield f"{path.relative_to(SOURCE)}:{node.lineno}"


def test_only_backends_and_the_schema_compare_backend_names():
    outside = [
        path
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] not in ("backends", "schema")
    ]
    assert [place for path in outside for place in comparisons(path)] == []


def test_the_search_finds_comparisons(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "x.py").write_text('a.backend == "torch"\nb is Backend.TORCH\nc == "torch"\n')
    assert list(comparisons(tmp_path / "x.py")) == ["x.py:1", "x.py:2"]
