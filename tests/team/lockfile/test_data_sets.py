"""A lock of a recipe whose quantization is fitted on a data set of the hub: the commit is locked like a model's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mmbuild.core.store.layout import Store, open_store
from mmbuild.pipeline.options import PlanOptions
from mmbuild.team.lockfile import apply, make
from mmbuild.team.lockfile.model import Lockfile, lock_path, read_lock, write_lock
from support.projects.recipe_project import RECIPE, load, write_parts
from support.servers.data_set_hub import FIRST, REPO, SECOND, image_folder, picture, serving
from support.servers.hub import Hub, digest

SOURCE = f"hf://{REPO}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(image_folder(6), tmp_path / "cache", monkeypatch) as state:
        state.commits[SECOND] = image_folder(6) | {"train/images/0.png": picture(77)}
        yield state


@pytest.fixture
def recipe(tmp_path: Path, hub: Hub) -> Path:
    """A small model next to it; ``hub`` has the data."""
    assert hub.url
    request = {"algorithm": "fp8", "calibration": {"data": SOURCE, "samples": 3}}
    load(
        tmp_path,
        RECIPE.replace(
            "quantization: int8", f"quantization: {yaml.safe_dump(request, default_flow_style=True)}"
        ),
    )
    write_parts(tmp_path / "model")
    return tmp_path / "recipe.yaml"


def lock(recipe: Path, store: Store, *update: str) -> Lockfile:
    path = lock_path(recipe)
    known = read_lock(path) if path.exists() else None
    write_lock(path, make.make(recipe, store, PlanOptions(), known, update).lock)
    return read_lock(path)


def locked_commit(recipe: Path, store: Store) -> str:
    (graph,) = apply.plan_locked(recipe, store, PlanOptions()).graphs
    return next(str(action.params["commit"]) for action in graph.actions if action.step == "calibration_data")


def test_the_commit_and_the_file_of_the_samples_are_locked(recipe: Path, hub: Hub, store: Store) -> None:
    known = lock(recipe, store).models[SOURCE]["main"]
    content = hub.commits[FIRST]["train/metadata.jsonl"]
    assert known["commit"] == FIRST
    assert known["files"] == {
        "train/metadata.jsonl": {"git": digest("train/metadata.jsonl", content), "size": len(content)}
    }


def test_a_branch_that_moved_calibrates_on_what_is_locked_until_it_is_updated(
    recipe: Path, hub: Hub, store: Store
) -> None:
    made = lock(recipe, store)
    hub.branches["main"] = SECOND
    assert locked_commit(recipe, store) == FIRST
    assert lock(recipe, store) == made
    moved = lock(recipe, store, "model")
    assert moved.models[SOURCE]["main"]["commit"] == SECOND
    assert moved.plan != made.plan
    assert locked_commit(recipe, store) == SECOND


def test_a_branch_that_is_gone_is_planned_as_locked(recipe: Path, hub: Hub, store: Store) -> None:
    made = lock(recipe, store)
    hub.branches.clear()
    assert apply.plan_locked(recipe, store, PlanOptions()).lock == made
