"""The plan cache returns a plan only if everything it depends on is unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmbuild.base import host
from mmbuild.core.store import plan_cache
from mmbuild.core.store.layout import Store, open_store
from mmbuild.pipeline.options import PlanOptions
from mmbuild.pipeline.planning import Prepared, prepare
from support.projects.recipe_project import RECIPE, load, write_parts
from support.servers.data_set_hub import FIRST, REPO, SECOND, image_folder, picture, serving
from support.servers.hub import Hub


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """One that takes files for unchanged which were written a moment ago."""
    monkeypatch.setattr(plan_cache, "is_settled", lambda _: True)
    return open_store(tmp_path / "store")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(image_folder(6), tmp_path / "cache", monkeypatch) as state:
        state.commits[SECOND] = image_folder(6) | {"train/images/0.png": picture(77)}
        yield state


def planned(root: Path, store: Store, **calibration: Any) -> Prepared:
    """The small recipe in fp8, with data of the hub."""
    request = {"algorithm": "fp8", "calibration": {"data": f"hf://{REPO}", "samples": 3} | calibration}
    path = root / "recipe.yaml"
    if not path.exists():
        load(root, RECIPE.replace("quantization: int8", f"quantization: {json.dumps(request)}"))
        write_parts(root / "model")
    return prepare(PlanOptions((path,)), store)


def commit(found: Prepared) -> object:
    (graph,) = found.graphs
    return next(action.params["commit"] for action in graph.actions if action.step == "calibration_data")


def test_a_model_in_the_home_directory_is_that_of_the_home_directory(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "project/recipe.yaml"
    load(path.parent, RECIPE.replace("source: model", "source: ~/model"))
    places = []
    for home in ("one", "two", "one"):
        load(tmp_path / home)
        write_parts(tmp_path / home / "model")
        monkeypatch.setenv("HOME", str(tmp_path / home))
        (graph,) = prepare(PlanOptions((path,), allow_outside=True), store).graphs
        places.append(
            {Path(place).parent.name for action in graph.actions for place in action.locators.values()}
        )
    assert places == [{"one"}, {"two"}, {"one"}]


def test_branch_of_a_data_set_is_resolved_each_time(tmp_path: Path, store: Store, hub: Hub) -> None:
    assert commit(planned(tmp_path, store)) == FIRST
    hub.branches["main"] = SECOND
    moved = planned(tmp_path, store)
    assert (commit(moved), moved.cached) == (SECOND, False)


def test_commit_of_a_data_set_is_planned_from_the_cache_until_the_calibrator_changes(
    tmp_path: Path, store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = planned(tmp_path, store, revision=FIRST)
    assert hub.url
    again = planned(tmp_path, store, revision=FIRST)
    assert (first.cached, again.cached) == (False, True)
    assert [graph.engine for graph in again.graphs] == [graph.engine for graph in first.graphs]
    real = host.installed_versions

    def other(*names: tuple[str, ...]) -> dict[str, str]:
        requested = names and "nvidia-modelopt" in names[0]
        return real(*names) | ({"nvidia-modelopt": "0.0.1"} if requested else {})

    monkeypatch.setattr(host, "installed_versions", other)
    assert not planned(tmp_path, store, revision=FIRST).cached
