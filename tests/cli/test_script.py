"""``mmbuild script`` as a user sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mmbuild.cli import main
from mmbuild.cli.script import command
from support.projects.recipe_project import RECIPE, write_project

RECIPES = Path(__file__).parents[2] / "recipes"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--offline"])


def test_the_script_goes_to_stdout_for_the_recipes_toolchain() -> None:
    result = run(str(RECIPES / "llava-int4.yaml"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("#!/usr/bin/env bash\n# llava-1.5-7b-int4 with TensorRT-LLM 1.2.")
    assert "build_multimodal_engine.py" in result.stdout


def test_another_toolchain_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "build.sh"
    result = run(str(RECIPES / "llava-int4.yaml"), "--toolchain", "0.9.0", "-o", str(path))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"wrote `{path}`\n")
    assert "build_visual_engine.py" in path.read_text("utf-8")
    assert os.access(path, os.X_OK)


def test_set_overrides_are_applied() -> None:
    result = run(
        str(RECIPES / "llava-int4.yaml"), "--set", "engine.max_output_len=77", "--toolchain", "0.10.0"
    )
    assert "--max_output_len 77" in result.stdout


def test_everything_that_cannot_be_built_is_reported_at_once() -> None:
    result = run(str(RECIPES / "llava-7b-calibrated.yaml"), "--toolchain", "0.10.0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("[MM603]") == 2
    assert result.stderr.count("hint:") == 2


def test_invalid_recipe_is_reported_as_by_validate(tmp_path: Path) -> None:
    result = run(str(write_project(tmp_path, RECIPE.replace("float32", "flaot16"))))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "[MM112]" in result.stderr


@pytest.mark.parametrize(("version", "code"), [("0.11.0", "MM601"), ("1.3", "MM602"), ("newest", "MM601")])
def test_an_unknown_toolchain(version: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["script", str(RECIPES / "llava-int4.yaml"), "--offline", "--toolchain", version]) == 1
    assert f"[{code}]" in capsys.readouterr().err


def test_recipes_for_different_toolchains(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = write_project(tmp_path)
    second = tmp_path / "second.yaml"
    second.write_text(RECIPE.replace("small", "second") + "  tensorrt_llm: {toolchain: '0.10.0'}\n", "utf-8")
    assert main(["script", str(first), str(second)]) == 1
    assert "[MM609]" in capsys.readouterr().err
    assert main(["script", str(first), str(second), "--toolchain", "0.10.0"]) == 0
    assert "second with" not in capsys.readouterr().err


def test_recipe_is_checked_against_the_version_of_the_script(tmp_path: Path) -> None:
    # SM 70 is too old for the recipe's own toolchain.
    text = (
        RECIPE.replace("torch", "tensorrt-llm").replace("int8", "none") + "target: {device: cuda, sm: 70}\n"
    )
    recipe = str(write_project(tmp_path, text))
    assert "[MM640]" in run(recipe).stderr
    result = run(recipe, "--toolchain", "0.10.0")
    assert (result.exit_code, result.stderr) == (0, "")


def test_help_shows_an_example() -> None:
    assert "mmbuild script recipes/llava-int4.yaml" in CliRunner().invoke(command, ["--help"]).stdout
