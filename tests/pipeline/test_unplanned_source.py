"""A source of the hub that cannot be identified is a finding at its place in the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from mmbuild.base.diagnostics import Diagnostic, RecipeError
from mmbuild.cli import main
from mmbuild.core.store import plan_cache
from mmbuild.core.store.layout import Store, open_store
from mmbuild.pipeline.options import PlanOptions
from mmbuild.pipeline.planning import Prepared, prepare
from support.projects.recipe_project import RECIPE, write_parts, write_project
from support.servers.hub import Hub, commit_id, running

MODEL = "google/flan-t5-xl"
TOWER = "Salesforce/blip2-flan-t5-xl"
FIRST, SECOND = commit_id(1), commit_id(2)
TWO_SOURCES = f"""\
version: 1
name: two
model:
  family: blip2-t5
  source: hf://{MODEL}
  revision: {FIRST}
  vision:
    source: hf://{TOWER}
engine:
  backend: torch
  dtype: bfloat16
  max_batch_size: 1
  max_input_len: 100
  max_output_len: 10
"""
"""The config.json of both sources is recorded, so only the commit of the second one is asked for."""


@pytest.fixture(autouse=True)
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "cache"), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """One that takes files for unchanged which were written a moment ago."""
    monkeypatch.setattr(plan_cache, "is_settled", lambda _: True)
    return open_store(tmp_path / "store")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(Hub(repo=TOWER, commits={FIRST: {}, SECOND: {}}, branches={"main": FIRST})) as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        yield state


def planned(root: Path, store: Store, text: str = TWO_SOURCES, *, offline: bool = False) -> Prepared:
    recipe = root / "recipe.yaml"
    if not recipe.exists():
        recipe.write_text(text)
    return prepare(PlanOptions((recipe,), offline=offline), store)


def commit(found: Prepared) -> object:
    (graph,) = found.graphs
    return next(action.params["commit"] for action in graph.actions if action.label == "two/download-vision")


def finding(error: pytest.ExceptionInfo[RecipeError]) -> Diagnostic:
    (item,) = error.value.diagnostics
    return item


def test_an_unreachable_hub_is_reported_at_the_source_without_a_commit(tmp_path: Path, store: Store) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(tmp_path, store)
    item = finding(caught)
    assert (item.code, item.path, item.line) == ("MM422", "model.vision.source", 8)
    assert f"`{TOWER}`: cannot reach 127.0.0.1:9" in item.message
    assert item.hint is not None
    assert item.hint.startswith("write a commit into model.vision.revision, or plan with `--offline`")


@pytest.mark.usefixtures("hub")
def test_a_revision_that_the_hub_does_not_have_is_underlined(tmp_path: Path, store: Store) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(tmp_path, store, TWO_SOURCES.replace("    source:", "    revision: v9\n    source:"))
    item = finding(caught)
    assert (item.code, item.path, item.excerpt) == ("MM420", "model.vision.revision", "    revision: v9")


def test_an_unknown_commit_of_calibration_data_is_reported_at_the_data(tmp_path: Path, store: Store) -> None:
    data = "{algorithm: fp8, calibration: {data: hf://datasets/shapes/pictures}}"
    recipe = write_project(tmp_path, RECIPE.replace("quantization: int8", f"quantization: {data}"))
    write_parts(tmp_path / "model")
    with pytest.raises(RecipeError) as caught:
        prepare(PlanOptions((recipe,)), store)
    item = finding(caught)
    assert (item.code, item.path) == ("MM422", "engine.quantization.calibration.data")


def test_the_branch_of_a_second_source_is_looked_up_for_each_plan(
    tmp_path: Path, store: Store, hub: Hub
) -> None:
    assert commit(planned(tmp_path, store)) == FIRST
    hub.branches["main"] = SECOND
    moved = planned(tmp_path, store)
    assert (commit(moved), moved.cached) == (SECOND, False)


@pytest.mark.usefixtures("hub")
def test_a_plan_made_offline_gets_the_commit_when_it_is_known(tmp_path: Path, store: Store) -> None:
    assert commit(planned(tmp_path, store, offline=True)) is None
    planned(tmp_path, store)
    assert commit(planned(tmp_path, store, offline=True)) == FIRST


def test_ci_plan_names_the_one_recipe_that_needs_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMBUILD_STORE", str(tmp_path / "store"))
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "two.yaml").write_text(TWO_SOURCES)
    pinned = TWO_SOURCES.replace("two", "pinned").replace(
        "    source:", f"    revision: {FIRST}\n    source:"
    )
    (recipes / "pinned.yaml").write_text(pinned)
    assert main(["ci", "plan", "recipes", "--json"]) == 1
    printed = capsys.readouterr()
    assert [item["file"] for item in json.loads(printed.out)["diagnostics"]] == ["recipes/two.yaml"]
    assert printed.err.startswith("recipes/two.yaml:8:13: error: `Salesforce/")
    assert main(["ci", "plan", "recipes", "--json", "--offline"]) == 0
    assert {job["name"] for job in json.loads(capsys.readouterr().out)["jobs"]} >= {"two", "pinned"}
