"""Local paths: relative to the file that names them, kept within the project's root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmbuild.pipeline.load import load_recipes
from support.projects.recipe_project import RECIPE, codes, load, only, png, pointed, write_project

TOP = "version: 1\nname: top\nextends: recipe.yaml\n"


def test_relative_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "deep").mkdir()
    top = tmp_path / "deep/top.yaml"
    top.write_text(TOP.replace("recipe.yaml", "../recipe.yaml"), encoding="utf-8")
    (variant,) = load_recipes([top]).variants
    assert variant.recipe.model.source == str(tmp_path / "model")


@pytest.mark.parametrize("source", ["../other", "/", "link"])
def test_a_model_outside_the_root_is_refused(tmp_path: Path, source: str) -> None:
    project = tmp_path / "inside"
    write_project(project)
    (project / "link").symlink_to(tmp_path)
    found = only(load(project, RECIPE.replace("source: model", f"source: {source}")))
    assert (found.code, found.path) == ("MM122", "model.source")


def test_a_path_from_set_may_be_outside_the_project(tmp_path: Path) -> None:
    write_project(tmp_path / "elsewhere")
    elsewhere = tmp_path / "elsewhere/model"
    (variant,) = load(tmp_path / "inside", RECIPE, f"model.source={elsewhere}").variants
    assert variant.recipe.model.source == str(elsewhere)


def test_the_environment_may_allow_paths_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(tmp_path / "elsewhere")
    recipe = RECIPE.replace("source: model", "source: ../elsewhere/model")
    monkeypatch.setenv("MMBUILD_ALLOW_OUTSIDE", "1")
    assert codes(load(tmp_path / "inside", recipe)) == []


def test_images_are_confined_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    found = only(load(tmp_path, RECIPE + "verify: {images: [a.png, /etc/passwd]}\n"))
    assert (found.code, found.path, pointed(found)) == ("MM122", "verify.images[1]", "/etc/passwd")


LONG = "x" * 300


@pytest.mark.parametrize("name", [r'"a\0b"', r'"\0"'])
def test_a_nul_is_a_finding_at_its_place(tmp_path: Path, name: str) -> None:
    for recipe in (
        RECIPE.replace("source: model", f"source: {name}"),
        RECIPE + f"verify: {{images: [{name}]}}\n",
        RECIPE + f"extends: {name}\n",
    ):
        assert only(load(tmp_path, recipe)).code in ("MM114", "MM116")


def test_a_name_too_long_to_exist_is_a_finding(tmp_path: Path) -> None:
    assert codes(load(tmp_path, RECIPE.replace("source: model", f"source: {LONG}"))) == ["MM130"]
    assert codes(load(tmp_path, RECIPE + f"extends: {LONG}\n")) == ["MM121"]
    assert codes(load_recipes([Path(LONG)])) == ["MM100"]


def test_a_recipe_whose_name_is_not_a_string_can_be_reported(tmp_path: Path) -> None:
    found = only(load_recipes([tmp_path / "\udcff.yaml"]))
    assert found.message.encode("utf-8")


def test_calibration_data_is_confined_too(tmp_path: Path) -> None:
    calibrated = "quantization: {algorithm: fp8, calibration: {data: ../a.jsonl}}"
    found = only(load(tmp_path, RECIPE.replace("quantization: int8", calibrated)))
    assert (found.code, found.path) == ("MM122", "engine.quantization.calibration.data")


def test_a_second_source_is_made_absolute(tmp_path: Path) -> None:
    tower = {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 7}
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text(json.dumps(tower))
    recipe = RECIPE.replace("family: llava", "family: vila\n  vision: {source: tower}")
    config = {"model_type": "llava_llama", "mm_vision_tower": "a/b"}
    (variant,) = load(tmp_path, recipe, config=config).variants
    assert variant.recipe.model.vision is not None
    assert variant.recipe.model.vision.source == str(tmp_path / "tower")


def test_a_hub_source_is_left_alone(tmp_path: Path) -> None:
    recipe = RECIPE.replace("source: model", "source: dummy://llava-hf/llava-1.5-7b-hf")
    (variant,) = load(tmp_path, recipe, "engine.max_input_len=2000").variants
    assert variant.recipe.model.source == "dummy://llava-hf/llava-1.5-7b-hf"
