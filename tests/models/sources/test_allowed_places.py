"""Links of a model's directory lead to the project, to what the user named, or to one hub cache; nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbuild.base.files import FileRefusedError
from mmbuild.core.steps.context import StepContext
from mmbuild.models.sources.allowed_places import (
    as_locator,
    from_locators,
    hub_cache,
    real_path,
    require_inside,
)
from mmbuild.models.sources.random_weights import copy_small_files
from mmbuild.pipeline.load import LoadResult, load_recipes
from mmbuild.steps import download
from support.projects.recipe_project import RECIPE, codes, load, write_parts


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a model, and a secret outside of it."""
    root = tmp_path / "project"
    write_parts(root / "model")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "id_rsa").write_text("{}")
    return root


Plant = Callable[[Path], object]
LINKS: dict[str, Plant] = {
    "absolute": lambda model: (model / "vocab.txt").symlink_to(model.parents[1] / "secrets/id_rsa"),
    "relative": lambda model: (model / "vocab.txt").symlink_to("../../secrets/id_rsa"),
    "of a system's file": lambda model: (model / "merges.txt").symlink_to("/etc/passwd"),
    "of a process": lambda model: (model / "added_tokens.json").symlink_to("/proc/self/environ"),
    "of weights": lambda model: (model / "model-00001-of-00001.safetensors").symlink_to("/etc/passwd"),
    "of a device": lambda model: (model / "vocab.json").symlink_to("/dev/zero"),
    "to a link": lambda model: (
        (model.parent / "between").symlink_to("/etc/passwd"),
        (model / "vocab.txt").symlink_to("../between"),
    ),
    "of a directory": lambda model: (model / "additional_chat_templates").symlink_to("/etc"),
    "of an adapter": lambda model: (model / "adapter_config.json").symlink_to("/etc/passwd"),
    "in a directory": lambda model: (
        (model / "additional_chat_templates").mkdir(),
        (model / "additional_chat_templates/default.jinja").symlink_to("/etc/passwd"),
    ),
}


@pytest.mark.parametrize("plant", LINKS.values(), ids=LINKS)
def test_a_link_out_of_the_project_is_refused_while_the_recipe_is_validated(
    project: Path, plant: Plant
) -> None:
    plant(project / "model")
    assert codes(load(project)) == ["MM747"]


@pytest.mark.parametrize("source", ["model", "dummy://./model"])
def test_without_confinement_links_may_lead_anywhere(project: Path, source: str) -> None:
    (project / "model/special_tokens_map.json").symlink_to("../../secrets/id_rsa")
    recipe = RECIPE.replace("source: model", f"source: {source}")
    assert codes(load(project, recipe)) == ["MM747"]
    assert codes(load(project, recipe, allow_outside=True)) == []


def test_a_directory_named_by_the_user_is_allowed(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    load(other)
    write_parts(other / "model")
    (other / "model/real.json").write_text("{}")
    (other / "model/special_tokens_map.json").symlink_to("real.json")
    named = f"model.source={other / 'model'}"
    assert codes(load(project, RECIPE, named)) == []
    (other / "model/vocab.txt").symlink_to("../../secrets/id_rsa")
    assert codes(load(project, RECIPE, named)) == ["MM747"]


def cached(root: Path, into: str) -> Path:
    """A snapshot in a hub's cache next to the project, and the project's model linked to it; its blobs."""
    repository = root.parent / "hub/models--a--b"
    blobs, snapshot = repository / "blobs", repository / "snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in (root / "model").iterdir():
        os.replace(path, blobs / f"x{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/x{path.name}")
    if into == "directory":
        (root / "model").rmdir()
        (root / "model").symlink_to(snapshot)
    else:
        for path in snapshot.iterdir():
            (root / "model" / path.name).symlink_to(path)
    return blobs


@pytest.mark.parametrize("into", ["directory", "files"])
def test_links_of_one_hub_cache_are_followed(project: Path, into: str) -> None:
    load(project)  # writes config.json
    cached(project, into)
    found = load_existing(project)
    assert codes(found) == []
    (variant,) = found.variants
    assert variant.places == (str(project), str(project.parent / "hub"))


def test_a_hub_cache_excuses_no_other_link(project: Path) -> None:
    load(project)
    cached(project, "files")
    (project / "model/vocab.txt").symlink_to(project.parent / "secrets/id_rsa")
    assert codes(load_existing(project)) == ["MM747"]


def test_a_second_hub_cache_is_another_place(project: Path) -> None:
    load(project)
    cached(project, "files")
    other = project.parent / "other-hub/models--c--d/blobs"
    other.mkdir(parents=True)
    (other / "x").write_text("{}")
    (project / "model/vocab.txt").symlink_to(other / "x")
    assert codes(load_existing(project)) == ["MM747"]


def load_existing(root: Path) -> LoadResult:
    return load_recipes([root / "recipe.yaml"])


@pytest.mark.parametrize(
    ("path", "cache"),
    [
        ("hub/models--a--b/blobs/x", "hub"),
        ("hub/models--a--b/snapshots/c/config.json", "hub"),
        ("hub/datasets--a--b/blobs/x", "hub"),
        ("hub/models--a--b/refs/main", None),
        ("hub/token", None),
        ("models--a--b", None),
    ],
)
def test_a_hub_cache_is_the_directory_of_repositories(tmp_path: Path, path: str, cache: str | None) -> None:
    assert hub_cache(tmp_path / path) == (None if cache is None else str(tmp_path / cache))


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json", "llm/tokenizer.json"])
def test_a_pipe_in_a_model_directory_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "llm").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileRefusedError, match="named pipe") as caught:
        require_inside(tmp_path, ["llm"], None)
    assert caught.value.code == "MM745"


def test_a_directory_of_the_model_may_not_be_a_link_out(tmp_path: Path) -> None:
    (tmp_path / "llm").symlink_to("/etc")
    with pytest.raises(FileRefusedError) as caught:
        require_inside(tmp_path, ["llm"], (str(tmp_path),))
    assert caught.value.code == "MM747"


def test_places_go_to_the_step_as_a_locator() -> None:
    assert from_locators(as_locator(("/a", "/b"))) == ("/a", "/b")
    assert from_locators(as_locator(None)) is None
    assert from_locators({}) is None


def test_the_step_follows_no_link_that_was_laid_after_the_plan(project: Path, tmp_path: Path) -> None:
    model, out = project / "model", tmp_path / "out"
    out.mkdir()
    places = (str(project),)
    (model / "vocab.txt").symlink_to("../../secrets/id_rsa")
    assert real_path(model / "tokenizer.json", places) == str(model / "tokenizer.json")
    with pytest.raises(FileRefusedError):
        copy_small_files(model, out, (), places)
    out = tmp_path / "second"
    out.mkdir()
    context = StepContext(
        params={"kind": "path", "directories": []},
        out=out,
        locators={"model": str(model), **as_locator(places)},
    )
    with pytest.raises(FileRefusedError) as caught:
        download.run(context)
    assert caught.value.code == "MM747"
    assert not (out / "vocab.txt").exists()
