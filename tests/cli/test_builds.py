"""BUILD is a directory, or the name of a build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.cli import main
from mmbuild.cli.builds import build_names, find_build
from support.projects.demo_project import NAME, RECIPE, Project


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the builds `llava-7b` and `vila`, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("llava-7b", "vila"):
        engine(tmp_path / "build" / name)
    return tmp_path


def engine(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")


BUILD = Path("build")


def test_a_name_is_a_build_below_the_build_directory(there: Path) -> None:
    assert find_build(Path("vila"), BUILD) == BUILD / "vila"
    engine(there / "other" / "vila")
    assert find_build(Path("vila"), Path("other")) == Path("other/vila")


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("path", ["build/vila", "build/nothing", "/tmp/vila", "recipe.yaml", ".", "../vila"])
def test_paths_and_recipes_are_left_alone(path: str) -> None:
    assert find_build(Path(path), BUILD) == Path(path)


def test_an_engine_here_comes_before_a_build_of_that_name(there: Path) -> None:
    (there / "vila").mkdir()
    assert find_build(Path("vila"), BUILD) == BUILD / "vila"
    (there / "vila" / "engine.json").write_text("{}")
    assert find_build(Path("vila"), BUILD) == Path("vila")


def test_a_directory_that_is_no_build_is_left_to_the_command(there: Path) -> None:
    (there / "models").mkdir()
    assert find_build(Path("models"), BUILD) == Path("models")


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("name", "hint"),
    [("lava-7b", "did you mean `llava-7b`?"), ("qqqq", "`build` has llava-7b, vila")],
)
def test_an_unknown_name_is_answered_with_names(name: str, hint: str) -> None:
    with pytest.raises(MmbuildError) as caught:
        find_build(Path(name), BUILD)
    assert (caught.value.code, caught.value.hint) == ("MM542", hint)
    assert caught.value.message == f"no build `{name}` in `build`, and no such directory"


def test_of_many_builds_some_are_named(there: Path) -> None:
    for number in range(9):
        engine(there / "build" / f"x{number}")
    with pytest.raises(MmbuildError) as caught:
        find_build(Path("qqqq"), BUILD)
    assert caught.value.hint == "`build` has llava-7b, vila, x0, x1, x2 and 6 more"


@pytest.mark.usefixtures("there")
def test_without_any_build_the_path_is_left_to_the_command() -> None:
    assert find_build(Path("vila"), Path("elsewhere")) == Path("vila")
    assert build_names(Path("elsewhere")) == []


def test_commands_accept_names(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.run("apply", RECIPE, "--build-dir", "out")
    same = json.loads(project.run("diff", NAME, f"out/{NAME}", "--json", "--build-dir", "out").stdout)
    assert same["same"]
    said = project.run("diff", NAME[:-1], NAME, "--build-dir", "out", status=1).stderr
    assert said == (
        f"error: no build `{NAME[:-1]}` in `out`, and no such directory [MM542]\n\n"
        f"hint: did you mean `{NAME}`?\n"
    )


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    "words",
    [
        ["run", "lava-7b", "--prompt", "x"],
        ["chat", "lava-7b"],
        ["serve", "lava-7b"],
        ["verify", "lava-7b"],
        ["bench", "lava-7b"],
        ["compare", "vila", "lava-7b"],
        ["compat", "lava-7b"],
        ["diff", "vila", "lava-7b"],
    ],
)
def test_every_command_suggests_a_build(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert "hint: did you mean `llava-7b`?" in capsys.readouterr().err


@pytest.mark.usefixtures("there")
def test_eval_suggests_a_build_before_it_reads_its_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "lava-7b", "--data", "nothing.jsonl"]) == 1
    assert "hint: did you mean `llava-7b`?" in capsys.readouterr().err
