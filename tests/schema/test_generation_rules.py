"""Generation settings of a model in a directory are checked while its recipe is validated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.projects.recipe_project import CONFIG, RECIPE, codes, load, only, pointed

IGNORE = "engine.generation_config=ignore"
TENSORRT_LLM = RECIPE.replace("backend: torch", "backend: tensorrt-llm").replace("float32", "float16")


def write(directory: Path, **content: Any) -> None:
    model = directory / "model"
    model.mkdir(exist_ok=True)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **content}))


def test_settings_that_are_obeyed_need_no_word(tmp_path: Path) -> None:
    write(tmp_path, repetition_penalty=1.2, suppress_tokens=[4], temperature=0.2, do_sample=True)
    assert codes(load(tmp_path)) == []


def test_a_setting_that_is_not_applied_is_a_warning_at_the_source(tmp_path: Path) -> None:
    write(tmp_path, guidance_scale=1.5, token_healing=True)
    result = load(tmp_path)
    assert len(result.variants) == 1
    assert codes(result) == ["MM720", "MM720"]
    found = result.diagnostics[0]
    assert (found.severity, pointed(found), found.path) == ("warning", "model", "model.source")
    assert "model/generation_config.json` sets `guidance_scale` to 1.5" in found.message
    assert codes(load(tmp_path, RECIPE, IGNORE)) == []


def test_a_setting_of_the_wrong_kind_is_an_error_at_the_source(tmp_path: Path) -> None:
    write(tmp_path, repetition_penalty="high", forced_bos_token_id=101)
    result = load(tmp_path)
    assert result.variants == ()
    assert codes(result) == ["MM721", "MM721"]
    assert {pointed(item) for item in result.diagnostics} == {"model"}
    assert "vocabulary of 101" in " ".join(item.message for item in result.diagnostics)
    assert codes(load(tmp_path, RECIPE, IGNORE)) == []


def test_a_damaged_file_is_an_error_at_the_source(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "model" / "generation_config.json").write_text("{")
    found = only(load(tmp_path))
    assert (found.code, found.severity, pointed(found)) == ("MM722", "error", "model")


def test_a_model_without_an_end_token_is_a_warning(tmp_path: Path) -> None:
    text = {key: value for key, value in CONFIG["text_config"].items() if key != "eos_token_id"}
    found = only(load(tmp_path, config={**CONFIG, "text_config": text}))
    assert (found.code, found.severity) == ("MM723", "warning")
    write(tmp_path)
    assert codes(load(tmp_path, config={**CONFIG, "text_config": text})) == []


def test_a_random_model_of_a_directory_has_its_settings(tmp_path: Path) -> None:
    write(tmp_path, guidance_scale=1.5)
    recipe = RECIPE.replace("source: model", "source: dummy://./model")
    assert codes(load(tmp_path, recipe)) == ["MM720"]


def test_the_files_are_among_those_that_a_plan_depends_on(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "model" / "generation_config.json") in load(tmp_path).files


def test_settings_of_a_hub_model_are_not_requested(tmp_path: Path) -> None:
    recipe = RECIPE.replace("source: model", "source: hf://llava-hf/llava-1.5-7b-hf").replace(
        "_len: 128", "_len: 2000"
    )
    assert codes(load(tmp_path, recipe, offline=True)) == []


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"repetition_penalty": 1.2, "suppress_tokens": [4]}, ["repetition_penalty", "suppress_tokens"]),
        ({"eos_token_id": [2, 7]}, ["eos_token_id"]),
        ({"top_k": 5, "num_beams": 4}, []),
    ],
)
def test_what_tensorrt_llm_s_runner_is_not_given_is_a_warning(
    tmp_path: Path, content: dict[str, Any], names: list[str]
) -> None:
    write(tmp_path, **content)
    result = load(tmp_path, TENSORRT_LLM)
    found = [item for item in result.diagnostics if item.code.startswith("MM72")]
    assert [item.message.split("`")[3] for item in found] == names
    assert {item.code for item in found} <= {"MM725"}
    assert len(result.variants) == 1
    silenced = load(tmp_path, TENSORRT_LLM, IGNORE).diagnostics
    assert ("eos_token_id" in names) == any(item.code == "MM725" for item in silenced)
