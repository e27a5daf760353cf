"""``mmbuild config`` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mmbuild.cli import main


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the configuration, in its own directory."""
    monkeypatch.setenv("MMBUILD_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config.yaml"


def config(*words: str) -> int:
    return main(["config", *words])


def test_path(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert config("path") == 0
    assert capsys.readouterr().out == f"{place}\n"


def test_nothing_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    assert config("show") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nothing is configured" in captured.err


def test_a_python(place: Path, tmp_path: Path) -> None:
    words = (
        "--python",
        "venv/bin/python",
        "--examples",
        "~/src",
        "--variable",
        "A=b=c",
        "--variable",
        "ON=yes",
    )
    assert config("set-toolchain", "1.2", *words) == 0
    assert yaml.safe_load(place.read_text("utf-8")) == {
        "toolchains": {
            "1.2": {
                "python": f"{tmp_path}/venv/bin/python",
                "examples": "~/src",
                "variables": {"A": "b=c", "ON": "yes"},
            }
        }
    }


def test_a_python_that_is_a_link_is_kept_as_one(tmp_path: Path, place: Path) -> None:
    (tmp_path / "python").symlink_to("/usr/bin/env")
    config("set-tensorrt", "--python", "python")
    assert yaml.safe_load(place.read_text("utf-8"))["tensorrt"] == {"python": f"{tmp_path}/python"}


def test_a_python_that_is_not_there_is_reported(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no" / "python"
    assert config("set-toolchain", "1.2", "--python", str(missing), "--examples", str(tmp_path)) == 0
    assert capsys.readouterr().err == (
        f"warning: python `{missing}` does not exist on this host\n"
        f"wrote `{place}`; `mmbuild doctor` checks whether it is complete\n"
    )


def test_a_container(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--container", "podman", "a/b:c", "--option", "--network=host", "--examples", "/src")
    assert config("set-toolchain", "0.9.0", *words) == 0
    assert config("show", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["toolchains"]["0.9.0"]["container"] == {
        "engine": "podman",
        "image": "a/b:c",
        "options": ["--network=host"],
    }
    assert document["tensorrt"] is None


def test_shown_configuration_can_be_loaded_again(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    config("set-toolchain", "1.2", "--python", "/p", "--examples", "/e")
    assert config("show") == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out) == yaml.safe_load(place.read_text("utf-8"))


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("set-toolchain", "1.2", "--examples", "/e"), 1, "[MM611]"),
        (
            ("set-toolchain", "1.2", "--examples", "/e", "--python", "/p", "--container", "docker", "i"),
            1,
            "[MM611]",
        ),
        (
            ("set-toolchain", "1.2", "--examples", "/e", "--container", "dokcer", "i"),
            1,
            "did you mean: docker",
        ),
        (("set-toolchain", "0.11.0", "--examples", "/e", "--python", "/p"), 1, "[MM601]"),
        (("set-toolchain", "1.3", "--examples", "/e", "--python", "/p"), 1, "[MM602]"),
        (("set-toolchain", "1.2", "--python", "/p"), 2, "--examples"),
        (("set-toolchain", "1.2", "--python", "/p", "--examples", "/e", "--option", "-v"), 2, "--container"),
        (("set-tensorrt", "--python", "/p", "--variable", "A"), 2, "NAME=VALUE"),
        (("unset", "toolchain", "1.2"), 1, "[MM612]"),
        (("unset", "tensorrt"), 1, "[MM612]"),
    ],
)
def test_mistake_is_reported_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], place: Path, words: tuple[str, ...], status: int, told: str
) -> None:
    assert config(*words) == status
    assert told in capsys.readouterr().err
    assert not place.exists()


def test_unset_removes_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    config("set-toolchain", "1.2", "--python", "/p", "--examples", "/e")
    config("set-tensorrt", "--python", "/q")
    assert config("unset", "toolchain", "1.2") == 0
    assert config("unset", "tensorrt") == 0
    capsys.readouterr()
    config("show")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words", [(), ("show",), ("set-toolchain",), ("set-tensorrt",), ("unset",), ("path",)]
)
def test_every_help_has_an_example(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert config(*words, "--help") == 0
    assert "Example:" in capsys.readouterr().out
