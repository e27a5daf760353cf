"""Of a model on the hub, validate fetches small files alone and compares them as those of a directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from mmbuild.models.sources import hub as source
from mmbuild.pipeline.load import LoadResult, load_recipes
from support.models.directories import edit, save_llava
from support.projects.recipe_project import RECIPE, codes, only, pointed, write_project
from support.servers.hub import Hub, commit_id, model_files, running

FIRST = commit_id(1)
SMALL = {
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
ON_HUB = RECIPE.replace("source: model", "source: hf://shapes/llava")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What the hub has; tests change it before they ask."""
    return save_llava(tmp_path / "on-the-hub")


@pytest.fixture
def hub(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Hub]]:
    """``hub()``: the hub with what is in ``files`` now, at ``main``."""
    cache = str(tmp_path / "cache")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, cache, raising=False)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with running(Hub(branches={"main": FIRST})) as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
        )

        def filled() -> Hub:
            state.commits[FIRST] = model_files(files)
            return state

        yield filled


def load(tmp_path: Path, recipe: str = ON_HUB, **options: Any) -> LoadResult:
    return load_recipes([write_project(tmp_path / "project", recipe)], **options)


def test_small_files_are_fetched_once_and_weights_never(hub: Callable[[], Hub], tmp_path: Path) -> None:
    state = hub()
    assert codes(load(tmp_path)) == []
    assert state.fetch_counts().keys() == SMALL
    assert set(state.fetch_counts().values()) == {1}
    assert codes(load(tmp_path)) == []
    assert set(state.fetch_counts().values()) == {1}


def test_a_contradiction_is_found_before_the_download(
    hub: Callable[[], Hub], files: Path, tmp_path: Path
) -> None:
    edit(files / "processor_config.json", patch_size=14)
    hub()
    found = only(load(tmp_path))
    assert (found.code, pointed(found)) == ("MM740", "hf://shapes/llava")
    assert "processor_config.json" in found.message
    assert "gives 4 placeholders" in found.message


def test_settings_that_no_engine_applies_are_reported_before_the_download(
    hub: Callable[[], Hub], files: Path, tmp_path: Path
) -> None:
    edit(files / "generation_config.json", guidance_scale=1.5)
    hub()
    found = only(load(tmp_path))
    assert (found.code, found.severity, pointed(found)) == ("MM720", "warning", "hf://shapes/llava")
    assert "guidance_scale" in found.message


def test_a_question_that_is_too_long_is_found_too(hub: Callable[[], Hub], tmp_path: Path) -> None:
    hub()
    long = "what is it ? " * 30
    found = only(load(tmp_path, ON_HUB + f"verify: {{prompts: ['{long}']}}\n"))
    assert (found.code, found.path) == ("MM512", "verify.prompts[0]")


def test_a_large_file_is_left_to_the_download(
    hub: Callable[[], Hub], files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_SMALL_BYTES", (files / "tokenizer.json").stat().st_size - 1)
    edit(files / "config.json", image_token_index=301)  # which only the tokenizer shows
    state = hub()
    assert codes(load(tmp_path)) == []
    assert state.fetch_counts().keys() == SMALL - {"tokenizer.json"}


def test_offline_makes_no_requests(hub: Callable[[], Hub], files: Path, tmp_path: Path) -> None:
    edit(files / "processor_config.json", patch_size=14)
    state = hub()
    assert codes(load(tmp_path, offline=True)) == ["MM133"]
    assert state.log == []


def test_a_recorded_model_is_not_requested(hub: Callable[[], Hub], tmp_path: Path) -> None:
    state = hub()
    recipe = ON_HUB.replace("hf://shapes/llava", "hf://llava-hf/llava-1.5-7b-hf").replace("128", "4000")
    load(tmp_path, recipe)
    assert state.log == []


def test_a_hub_that_breaks_off_after_config_is_left_to_the_download(
    hub: Callable[[], Hub], tmp_path: Path
) -> None:
    state = hub()
    state.fail["info"] = [500] * 50
    assert codes(load(tmp_path)) == []


def adapter(files: Path, *, config: bool) -> None:
    (files / "model.safetensors").rename(files / "adapter_model.safetensors")
    (files / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "llava-hf/base"}))
    if not config:
        (files / "config.json").unlink()


@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_is_called_an_adapter(
    hub: Callable[[], Hub], files: Path, tmp_path: Path, config: bool
) -> None:
    adapter(files, config=config)
    hub()
    found = only(load(tmp_path))
    assert (found.code, pointed(found)) == ("MM734", "hf://shapes/llava")
    assert found.message == (
        "`hf://shapes/llava` holds an adapter (`adapter_model.safetensors`) for the base model `llava-hf/base`, "
        "not a model"
    )


def test_a_repository_without_a_config_is_reported_as_before(
    hub: Callable[[], Hub], files: Path, tmp_path: Path
) -> None:
    (files / "config.json").unlink()
    hub()
    assert only(load(tmp_path)).code == "MM420"
