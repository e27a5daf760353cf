"""mmbuild lock, and plan and apply with --locked, as a user runs them."""

from __future__ import annotations

import pytest

from support.projects.demo_project import NAME, RECIPE

LOCK = RECIPE.replace(".yaml", ".lock")


@pytest.mark.slow
def test_lock_apply_change_refuse_lock_again(project):
    assert project.run("apply", "--locked", RECIPE, status=1).stderr.count("MM800") == 1
    assert project.run("lock", RECIPE).stdout.strip() == LOCK
    assert "unchanged" in project.run("lock", RECIPE).stderr
    project.run("lock", "--check", RECIPE)
    project.run("apply", "--locked", RECIPE)
    assert list((project.root / "build" / NAME).iterdir())
    recipe = project.root / RECIPE
    recipe.write_text(recipe.read_text().replace("int4", "int8"))
    refused = project.run("apply", "--locked", RECIPE, status=1)
    assert "recipe: llava-int4.yaml" in refused.stderr
    assert "MM802" in project.run("lock", "--check", RECIPE, status=1).stderr
    assert "recipe: llava-int4.yaml: locked" in project.run("lock", RECIPE).stderr
    project.run("lock", "--check", RECIPE)


def test_conflicting_options_are_usage_errors(project):
    project.run("lock", RECIPE)
    assert "MM804" in project.run("plan", "--locked", RECIPE, "--set", "name=x", status=2).stderr
    project.run("lock", "--check", "--update", "model", RECIPE, status=2)


def test_a_saved_plan_remembers_that_it_was_locked(project):
    project.run("lock", RECIPE)
    project.run("plan", "--locked", RECIPE, "-o", "saved.plan")
    (project.root / LOCK).unlink()
    assert "MM800" in project.run("apply", "saved.plan", status=1).stderr
