"""An engine directory that another recipe file has filled: ``plan`` and ``apply`` say so before they replace it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.projects.demo_project import NAME, RECIPE, Project

COPY = "recipes/demo/copy.yaml"
NOTE = f"note: `build/{NAME}` was built from `{RECIPE}`; an apply replaces it with the engine of `{COPY}`\n"


@pytest.fixture
def built(project: Project) -> Project:
    """The demo recipe is applied, and a second file has the same name and another quantization."""
    project.run("apply", RECIPE)
    text = (project.root / RECIPE).read_text("utf-8")
    (project.root / COPY).write_text(text.replace("quantization: int4", "quantization: int8"))
    return project


def manifest(project: Project) -> dict[str, str]:
    found: dict[str, str] = json.loads((project.root / "build" / NAME / "manifest.json").read_text("utf-8"))
    return found


def test_the_manifest_has_the_recipe_file_relative_to_the_project(built: Project, tmp_path: Path) -> None:
    assert manifest(built)["recipe_file"] == RECIPE
    assert str(tmp_path) not in manifest(built)["recipe_file"]


def test_plan_and_apply_say_that_another_recipe_s_engine_is_replaced(built: Project) -> None:
    plan = built.run("plan", COPY)
    assert plan.stderr.count(NOTE) == 1
    described = built.run("plan", COPY, "--json")
    (build,) = json.loads(described.stdout)["builds"]
    assert (build["recipe_file"], build["replaces"]) == (COPY, RECIPE)
    assert NOTE in built.run("apply", COPY, "--dry-run").stderr
    assert manifest(built)["recipe_file"] == RECIPE
    applied = built.run("apply", COPY, "--json")
    assert applied.stderr.startswith(NOTE)
    first = json.loads(applied.stdout.splitlines()[0])
    assert (first["event"], first["replaces"]) == ("plan", {NAME: RECIPE})
    assert manifest(built)["recipe_file"] == COPY
    assert "note:" not in built.run("plan", COPY, "--set", "engine.max_output_len=24").stderr
    assert NOTE not in built.run("graph", COPY).stderr


def test_nothing_is_said_where_nothing_is_replaced(built: Project) -> None:
    assert "note:" not in built.run("plan", RECIPE, "--set", "engine.max_output_len=24").stderr
    assert "note:" not in built.run("plan", COPY, "--build-dir", "elsewhere").stderr
    (built.root / RECIPE).rename(built.root / COPY)
    moved = built.run("apply", COPY)
    assert "was built from" not in moved.stderr
    assert manifest(built)["recipe_file"] == RECIPE


def test_the_file_of_a_manifest_is_shown_as_text(built: Project) -> None:
    path = built.root / "build" / NAME / "manifest.json"
    path.chmod(0o644)
    path.write_text(json.dumps({**manifest(built), "recipe_file": "a\x1b[2J\nerror: b"}))
    assert "built from `a\\u001b[2J\\nerror: b`" in built.run("plan", COPY).stderr
    path.write_text(json.dumps({**manifest(built), "recipe_file": ["a"]}))
    assert "was built from" not in built.run("plan", COPY).stderr
