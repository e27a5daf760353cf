"""A directory in place of recipes means the recipes directly in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.projects.demo_project import Project

NAMES = ("llava-int4", "vila")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The directory `mine` has two recipes, and a third one in a directory below."""
    project = Project(tmp_path)
    mine = tmp_path / "recipes" / "mine"
    (mine / "below").mkdir(parents=True)
    demo = tmp_path / "recipes" / "demo"
    for name in NAMES:
        text = (demo / f"{name}.yaml").read_text().replace("extends: ", "extends: ../demo/")
        (mine / f"{name}.yaml").write_text(text.replace("../../", "../../"))
    shutil.copy(demo / "nougat.yaml", mine / "below" / "nougat.yaml")
    return project


def built(plan: str) -> list[str]:
    return [build["recipe"] for build in json.loads(plan)["builds"]]


def test_validate_plan_apply_and_graph_take_a_directory(project: Project) -> None:
    files = [f"recipes/mine/{name}.yaml" for name in NAMES]
    assert project.run("validate", "recipes/mine").stdout == project.run("validate", *files).stdout
    plan = project.run("plan", "recipes/mine", "--json").stdout
    assert built(plan) == built(project.run("plan", *files, "--json").stdout)
    assert len(built(plan)) == 2
    assert project.run("graph", "recipes/mine").stdout == project.run("graph", *files).stdout
    assert len(project.run("apply", "recipes/mine", "-q").stdout.splitlines()) == 2


def test_lock_takes_a_directory(project: Project) -> None:
    project.run("lock", "recipes/mine")
    assert sorted(path.stem for path in (project.root / "recipes" / "mine").glob("*.lock")) == sorted(NAMES)
    project.run("lock", "--check", "recipes/mine")


def test_a_saved_plan_of_a_directory_lists_its_files(project: Project) -> None:
    project.run("plan", "recipes/mine", "-o", "saved.plan")
    saved = json.loads((project.root / "saved.plan").read_text())
    assert [Path(path).stem for path in saved["request"]["recipes"]] == list(NAMES)
    assert "everything" not in project.run("apply", "saved.plan").stderr


@pytest.mark.parametrize("verb", ["validate", "plan", "apply", "lock", "graph", "script"])
def test_a_directory_without_recipes(project: Project, verb: str) -> None:
    (project.root / "empty").mkdir()
    said = project.run(verb, "empty", status=1).stderr
    assert said.startswith("error: `empty` contains no recipe [MM810]\n")


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("x/engine.json", "it is a built engine: name the recipe that it was built from"),
        ("x/config.json", "it is a model: `mmbuild init x` writes a recipe for it"),
        ("x/recipes/a.yaml", "did you mean `x/recipes`?"),
        ("x/a.txt", "name recipe files, or directories that directly contain .yaml files"),
    ],
)
def test_a_directory_of_something_else_says_what_it_is(project: Project, file: str, hint: str) -> None:
    (project.root / file).parent.mkdir(parents=True)
    (project.root / file).touch()
    said = project.run("plan", "x", status=1).stderr
    assert said == f"error: `x` contains no recipe [MM810]\n\nhint: {hint}\n"


def test_a_model_is_answered_with_the_recipe_next_to_it(project: Project) -> None:
    (project.root / "my").mkdir()
    (project.root / "my" / "config.json").touch()
    (project.root / "my.yaml").touch()
    for verb in ("plan", "why"):
        assert "hint: did you mean `my.yaml`?" in project.run(verb, "my", status=1).stderr


@pytest.mark.parametrize("text", ["", "# the root of our recipes\n", "team: vision\n"])
def test_the_file_that_marks_a_project_is_not_a_recipe_of_its_directory(project: Project, text: str) -> None:
    files = [f"recipes/mine/{name}.yaml" for name in NAMES]
    expected = project.run("validate", *files).stdout
    plan = project.run("ci", "plan", *files).stdout
    # The nearest marker is the root, from which the demo recipes must be reachable.
    marker = project.root / "recipes" / "mine" / "mmbuild.yaml"
    marker.write_text(text)
    outside = ("recipes/mine", "--allow-outside")
    assert project.run("validate", *outside).stdout == expected
    assert project.run("ci", "plan", *outside).stdout == plan
    for name in NAMES:
        (marker.parent / f"{name}.yaml").unlink()
    assert "`recipes/mine` contains no recipe [MM810]" in project.run("plan", "recipes/mine", status=1).stderr


def test_a_recipe_may_have_the_name_of_the_file_that_marks_a_project(project: Project) -> None:
    mine = project.root / "recipes" / "mine"
    (mine / "mmbuild.yaml").write_text(
        (mine / f"{NAMES[0]}.yaml").read_text().replace("name: ", "name: other-")
    )
    assert "recipes/mine/mmbuild.yaml" in project.run("validate", "recipes/mine", "--allow-outside").stdout


def test_the_name_of_a_model_is_not_a_recipe(project: Project) -> None:
    said = project.run("plan", "llava-hf/llava-1.5-7b-hf", status=1).stderr
    assert (
        "hint: a recipe is a .yaml file; for the model on the hub, `mmbuild init llava-hf/llava-1.5-7b-hf` writes one"
        in said
    )
    assert "did you mean `recipes/mine/" in project.run("plan", f"recipes/mine/{NAMES[0]}", status=1).stderr
