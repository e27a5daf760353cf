"""``mmbuild validate`` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mmbuild.cli.validate import command
from support.projects.recipe_project import RECIPE, write_parts, write_project


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def project(directory: Path, recipe: str = RECIPE) -> Path:
    """A recipe next to a whole model."""
    write_parts(directory / "model")
    return write_project(directory, recipe)


def test_a_valid_recipe_is_one_line_on_stdout(tmp_path: Path) -> None:
    path = project(tmp_path)
    result = run(str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"ok small {path}\n"


def test_each_variant_is_a_line(tmp_path: Path) -> None:
    data = "{algorithm: fp8, calibration: {data: 'hf://datasets/a/b'}}"
    path = project(tmp_path, RECIPE + f"matrix: {{quantization: [int8, {data}]}}\n")
    assert run(str(path)).stdout.splitlines() == [
        f"ok small-int8 {path}",
        f"ok small-fp8 {path}",
    ]


def test_the_whole_screen_of_a_faulty_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, RECIPE.replace("float32", "flaot16") + "  max_multimodal_len: 97\n")
    monkeypatch.chdir(tmp_path)
    result = run("recipe.yaml")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "recipe.yaml:8:10: error: `engine.dtype` cannot be `flaot16` [MM112]\n"
        "    8 |   dtype: flaot16\n"
        "      |          ^^^^^^^\n"
        "      allowed: float32, float16, bfloat16\n"
        "      did you mean: float16\n"
        "\n"
        "recipe.yaml:14:23: error: max_multimodal_len is 97, but max_batch_size 2 x max_images_per_prompt 3"
        " x num_visual_features 16 = 96 [MM141]\n"
        "   14 |   max_multimodal_len: 97\n"
        "      |                       ^^\n"
        "      hint: set it to 96, or omit the key: it is computed\n"
        "\n"
        "2 errors; `mmbuild explain MM112` says more\n"
    )


def test_json_goes_to_stdout(tmp_path: Path) -> None:
    path = project(tmp_path, RECIPE.replace("float32", "flaot16"))
    result = run(str(path), "--format", "json")
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)["diagnostics"]
    assert (row["code"], row["line"]) == ("MM112", 8)


def test_github_annotations_go_to_stdout(tmp_path: Path) -> None:
    path = project(tmp_path, RECIPE.replace("float32", "flaot16"))
    result = run(str(path), "--format", "github")
    assert result.exit_code == 1
    assert result.stdout.startswith("::error file=")
    assert len(result.stdout.splitlines()) == 1


def test_warning_is_reported_and_does_not_fail(tmp_path: Path) -> None:
    path = project(tmp_path, RECIPE.replace("source: model", "source: model\n  revision: v1"))
    result = run(str(path))
    assert (result.exit_code, result.stdout) == (0, f"ok small {path}\n")
    assert "warning" in result.stderr
    assert result.stderr.endswith("1 warning; `mmbuild explain MM153` says more\n")


def test_set_reaches_every_recipe(tmp_path: Path) -> None:
    first = project(tmp_path)
    second = tmp_path / "second.yaml"
    second.write_text(RECIPE.replace("small", "second"), encoding="utf-8")
    result = run(str(first), str(second), "--set", "engine.backend=trch")
    assert result.exit_code == 1
    assert "--set engine.backend=trch:1:16" in result.stderr


def test_allow_outside(tmp_path: Path) -> None:
    project(tmp_path / "other")
    path = project(tmp_path / "here", RECIPE.replace("source: model", "source: ../other/model"))
    assert run(str(path)).exit_code == 1
    assert run(str(path), "--allow-outside").exit_code == 0


@pytest.mark.parametrize("arguments", [[], ["--format", "xml", "a"], ["--nope"]])
def test_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_help_shows_an_example() -> None:
    assert "mmbuild validate recipes/llava-int4.yaml" in run("--help").stdout


@pytest.mark.parametrize("home", ["/proc", "/dev/null", "/sys/kernel"])
def test_home_that_cannot_hold_a_store_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    for name in ("MMBUILD_STORE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    result = run(str(project(tmp_path)))
    assert result.exit_code == 0
    assert "[MM301]" in result.stderr
    assert "MMBUILD_STORE" in result.stderr


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (
            {"pytorch_model.bin": None},
            "`{model}` contains no weights: neither model.safetensors nor model.safetensors.index.json nor "
            "pytorch_model.bin nor pytorch_model.bin.index.json [MM402]",
            "set model.source to a directory in Hugging Face layout",
        ),
        (
            {"pytorch_model.bin": "model.safetensors.incomplete"},
            "`{model}` contains no weights: neither model.safetensors nor model.safetensors.index.json nor "
            "pytorch_model.bin nor pytorch_model.bin.index.json [MM402]",
            "complete the download: `model.safetensors.incomplete` is the beginning of a file",
        ),
        (
            {"tokenizer.json": None},
            "the model has no `tokenizer.json` in `{model}` [MM402]",
            "a model directory needs config.json, weights, tokenizer and processor in Hugging Face layout",
        ),
        (
            {"preprocessor_config.json": None},
            "the model has no `preprocessor_config.json` in `{model}` [MM402]",
            "a model directory needs config.json, weights, tokenizer and processor in Hugging Face layout",
        ),
    ],
)
def test_a_file_that_the_model_lacks_is_an_error_at_its_source(
    tmp_path: Path, names: dict[str, str | None], message: str, hint: str
) -> None:
    path, model = project(tmp_path), tmp_path / "model"
    for name, other in names.items():
        (model / name).rename(model / (other or "unrelated"))
    result = run(str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"{path}:5:11: error: {message.format(model=model)}\n"
        "    5 |   source: model\n"
        "      |           ^^^^^\n"
        f"      hint: {hint}\n"
        "\n"
        "1 error; `mmbuild explain MM402` says more\n"
    )


def test_shards_that_an_index_names_are_needed(tmp_path: Path) -> None:
    path = project(tmp_path)
    (tmp_path / "model/pytorch_model.bin").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model/model.safetensors.index.json").write_text(json.dumps(index))
    result = run(str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        "`model.safetensors.index.json` names `model-00001-of-00002.safetensors`, which is not in "
        f"`{tmp_path / 'model'}` [MM405]" in result.stderr
    )
