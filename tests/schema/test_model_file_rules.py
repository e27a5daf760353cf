"""Contradictions in a model's directory are findings of `validate`, with the place of `source` in the recipe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmbuild.pipeline.load import load_recipes
from support.models.directories import edit, save_llava
from support.projects.recipe_project import RECIPE, codes, load, only, pointed, write_project

HUB = "models--llava-hf--llava-1.5-7b-hf"
COMMITS = ("05ae2434cbb430be33edcba0c5203e7023f785b7", "b234b804b114d9e37bb655e11cbbb5f5e971b7a9")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava") / "m")


@pytest.fixture
def project(saved: Path, tmp_path: Path) -> Path:
    """A recipe next to a whole model."""
    path = write_project(tmp_path)
    shutil.copytree(saved, tmp_path / "model", dirs_exist_ok=True)
    return path


def test_a_model_that_agrees_with_itself_is_loaded_with_all_its_files(project: Path) -> None:
    result = load_recipes([project])
    assert codes(result) == []
    names = [file.name for file in result.files]
    assert len(names) == len(set(names))
    assert {"recipe.yaml", "config.json", "model", "tokenizer.json", "model.safetensors"} <= set(names)


def test_a_contradiction_points_at_the_source(project: Path) -> None:
    edit(project.parent / "model" / "processor_config.json", patch_size=14)
    found = only(load_recipes([project]))
    assert (found.code, found.severity, pointed(found)) == ("MM740", "error", "model")
    assert found.path == "model.source"


def test_all_contradictions_are_reported_once_for_all_variants(project: Path) -> None:
    edit(project.parent / "model" / "processor_config.json", patch_size=14)
    edit(project.parent / "model" / "config.json", image_token_index=301)
    project.write_text(RECIPE + "matrix: {quantization: [none, int8, int4]}\n")
    result = load_recipes([project])
    assert (codes(result), result.variants) == (["MM737", "MM740"], ())


def test_random_weights_take_small_files_from_a_directory(project: Path) -> None:
    project.write_text(RECIPE.replace("source: model", "source: dummy://./model"))
    (project.parent / "model" / "model.safetensors").write_text("{}")
    assert codes(load_recipes([project])) == []
    edit(project.parent / "model" / "processor_config.json", patch_size=14)
    assert codes(load_recipes([project])) == ["MM740"]


def test_errors_in_config_json_come_first(tmp_path: Path) -> None:
    write_project(tmp_path)
    for name in ("tokenizer.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    assert only(load(tmp_path, config={"model_type": "qwen2_5_vl"})).code == "MM410"


def test_a_plan_is_made_without_torch_and_transformers(project: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mmbuild.pipeline.load import load_recipes;"
        f"assert len(load_recipes([Path({str(project)!r})]).variants) == 1;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Directories that are not a model.


def empty_project(directory: Path) -> Path:
    path = write_project(directory)
    (directory / "model" / "config.json").unlink()
    return path


def cached(model: Path, *commits: str) -> None:
    for commit in commits:
        (model / "snapshots" / commit).mkdir(parents=True)
        (model / "snapshots" / commit / "config.json").write_text("{}")


@pytest.mark.parametrize("named", ["", "/snapshots", "/refs"])
def test_the_hub_cache_is_not_a_model(tmp_path: Path, named: str) -> None:
    path = empty_project(tmp_path)
    cached(tmp_path / HUB, *COMMITS)
    (tmp_path / HUB / "refs").mkdir()
    path.write_text(RECIPE.replace("source: model", f"source: {HUB}{named}"))
    found = only(load_recipes([path]))
    assert (found.code, pointed(found)) == ("MM735", f"{HUB}{named}")
    assert "llava-hf/llava-1.5-7b-hf" in found.message
    assert found.hint is not None
    commits = COMMITS if named != "/refs" else ()
    assert all(f"/{HUB}/snapshots/{commit}`" in found.hint for commit in commits)
    assert "`hf://llava-hf/llava-1.5-7b-hf`" in found.hint


@pytest.mark.parametrize("above", ["", "hub/"])
def test_the_whole_cache_is_not_a_model_either(tmp_path: Path, above: str) -> None:
    path = empty_project(tmp_path)
    cached(tmp_path / "model" / above / HUB, COMMITS[0])
    found = only(load_recipes([path]))
    assert (found.code, pointed(found)) == ("MM735", "model")
    assert f"/{HUB}/snapshots/{COMMITS[0]}`" in str(found.hint)


def test_checkpoints_of_a_training_run_are_named(tmp_path: Path) -> None:
    path = empty_project(tmp_path)
    for step in (500, 1000, 1500, 2000):
        (tmp_path / "model" / f"checkpoint-{step}").mkdir()
        (tmp_path / "model" / f"checkpoint-{step}" / "config.json").write_text("{}")
    found = only(load_recipes([path]))
    assert found.code == "MM735"
    assert "checkpoint-1000`" in str(found.hint)
    assert "(1 more are there)" in str(found.hint)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "mm_projector.bin"])
def test_an_adapter_without_a_config_is_called_an_adapter(tmp_path: Path, name: str) -> None:
    path = empty_project(tmp_path)
    (tmp_path / "model" / name).write_text("")
    (tmp_path / "model" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "a/b"}))
    found = only(load_recipes([path]))
    assert (found.code, pointed(found)) == ("MM734", "model")
    assert f"holds an adapter (`{name}`) for the base model `a/b`, not a model" in found.message
    assert "merge" in str(found.hint)


def test_a_directory_without_a_model_is_reported_as_before(tmp_path: Path) -> None:
    path = empty_project(tmp_path)
    (tmp_path / "model" / "notes.txt").write_text("x")
    (tmp_path / "model" / "llm").mkdir()
    (tmp_path / "model" / "llm" / "config.json").write_text("{}")  # a part of VILA
    assert only(load_recipes([path])).code == "MM130"
