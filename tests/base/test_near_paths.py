"""Hints name an existing path that is similar to a missing one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.base.near_paths import near_name, near_path, path_hint, recipe_path_hint


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("models/llava-shapes/config.json", "models/vila-shapes/config.json", "pictures/stars.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("models/llava-shape", "models/llava-shapes"),
        ("model/llava-shapes", "models/llava-shapes"),
        ("model", "models"),
        ("picture/stars.png", "pictures/stars.png"),
        ("pictures/star.png", "pictures/stars.png"),
        ("model/llava-shape", None),  # the second part is wrong too
        ("models/blip2", None),
        (".hiden", None),
        ("pictures/stars.png/x", None),
        ("nowhere/at/all", None),
        ("a\0b", None),
        ("x" * 5000, None),
    ],
)
def test_near_path(missing: str, near: str | None, project: Path) -> None:
    assert near_path(Path(missing)) == (None if near is None else Path(near))
    assert near_path(project / missing) == (None if near is None else project / near)


def test_a_path_that_exists_has_no_hint() -> None:
    assert near_path(Path("models")) is None
    assert near_path(Path("/")) is None


def test_a_recipe_is_shown_the_name_alone_because_it_may_be_in_another_directory() -> None:
    assert near_name(Path("models/llava-shape")) == "llava-shapes"
    assert near_name(Path("model/llava-shapes")) == "models"
    assert recipe_path_hint(Path("model")) == "did you mean `models`?"
    assert recipe_path_hint(Path("x")) == "check the path; it is relative to the file that names it"


def test_the_command_line_is_shown_the_path() -> None:
    assert path_hint(Path("models/llava-shape"), "check the path") == "did you mean `models/llava-shapes`?"
    assert path_hint(Path("x"), "check the path") == "check the path"


def test_an_address_is_not_answered_with_a_path(project: Path) -> None:
    for hint in (path_hint(Path("https://a.b/c.png"), "x"), recipe_path_hint(project / "https://a.b/c.png")):
        assert hint == "addresses are not fetched: download the file, and name it"
