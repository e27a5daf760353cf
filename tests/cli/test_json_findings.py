"""Commands with ``--json`` print findings of recipes as JSON, and the same text on standard error as without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mmbuild.cli import command_group, main
from support.projects.recipe_project import RECIPE, write_project

MORE = {"ci run": ("--shards", "2")}
"""Options without which a command refuses its arguments."""


def commands() -> Iterator[str]:
    """Every command that takes recipes and has ``--json``; ``ci diff``, which takes revisions, has its own test."""
    pending: list[tuple[str, click.Command]] = [("", command_group())]
    while pending:
        words, command = pending.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            found = ((name, command.get_command(context, name)) for name in command.list_commands(context))
            pending += [(f"{words} {name}".strip(), below) for name, below in found if below is not None]
        elif {"recipes", "as_json"} <= {one.name for one in command.params} and words != "ci diff":
            yield words


@pytest.fixture(autouse=True)
def bad_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(tmp_path, RECIPE.replace("float32", "flaot16"))
    monkeypatch.setenv("MMBUILD_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


def findings(text: str) -> list[str]:
    document = json.loads(text)
    assert document["version"] == 1
    return [item["code"] for item in document["diagnostics"]]


@pytest.mark.parametrize("words", sorted(commands()))
def test_findings_of_a_bad_recipe_are_json(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*words.split(), "recipe.yaml", *MORE.get(words, ())]
    status = main(line)
    shown = capsys.readouterr()
    assert main([*line, "--json"]) == status == 1
    printed = capsys.readouterr()
    assert (shown.out, findings(printed.out)) == ("", ["MM112"])
    if words != "validate":  # whose findings are its result
        assert printed.err == shown.err
        assert printed.out.count("\n") == 1


def test_a_plan_that_is_not_built_has_the_same_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "recipe.yaml", "--json"]) == 1
    wanted = json.loads(capsys.readouterr().out)
    assert main(["apply", "recipe.yaml", "--dry-run", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == wanted


def test_findings_of_a_compared_revision_are_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, dtype in (("before", "float32"), ("after", "flaot16")):
        write_project(tmp_path / name, RECIPE.replace("float32", dtype))
    assert main(["ci", "diff", "before", "after", "--recipes", "recipe.yaml", "--json"]) == 1
    assert findings(capsys.readouterr().out) == ["MM112"]


def test_findings_of_the_configuration_are_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("toolchain: {}\n")
    monkeypatch.setenv("MMBUILD_CONFIG", str(tmp_path / "config.yaml"))
    assert main(["config", "show", "--json"]) == 1
    assert findings(capsys.readouterr().out) == ["MM103"]
