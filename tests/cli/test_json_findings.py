"""Commands with ``--json`` print errors as JSON, and the same text on standard error as without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.cli import command_group, commands, main
from mmbuild.cli.options import json_option
from mmbuild.cli.output import run_guarded
from support.projects.recipe_project import RECIPE, write_project

MORE = {"ci run": ("--shards", "2")}
"""Options without which a command refuses its arguments."""

REFUSED = {
    "apply": ("empty", "MM810"),
    "bench": ("missing", "MM540"),
    "cache ls": ("--store recipe.yaml", "MM303"),
    "ci diff": ("missing recipe.yaml", "MM817"),
    "ci plan": ("empty", "MM810"),
    "ci run": ("empty --shards 2", "MM810"),
    "compare": ("missing missing", "MM540"),
    "compat": ("missing", "MM540"),
    "config show": ("", "MM610"),
    "diff": ("missing missing", "MM851"),
    "doctor": ("empty", "MM810"),
    "eval": ("missing --data missing.jsonl", "MM890"),
    "explain": ("MM999", "MM190"),
    "history": ("--store recipe.yaml", "MM303"),
    "logs": ("missing", "MM328"),
    "plan": ("empty", "MM810"),
    "run": ("missing --prompt text", "MM540"),
    "validate": ("empty", "MM810"),
    "verify": ("missing", "MM540"),
    "why": ("empty", "MM100"),
}
"""Arguments that a command refuses, and the code of its error."""


def json_commands() -> Iterator[tuple[str, set[str | None]]]:
    """Every command that has ``--json``, with its parameters."""
    pending: list[tuple[str, click.Command]] = [("", command_group())]
    while pending:
        words, command = pending.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            found = ((name, command.get_command(context, name)) for name in command.list_commands(context))
            pending += [(f"{words} {name}".strip(), below) for name, below in found if below is not None]
        elif "as_json" in (names := {one.name for one in command.params}):
            yield words, names


def recipe_commands() -> Iterator[str]:
    """Those that take recipes; ``ci diff``, which takes revisions, has its own test."""
    return (words for words, names in json_commands() if "recipes" in names and words != "ci diff")


@pytest.fixture(autouse=True)
def bad_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(tmp_path, RECIPE.replace("float32", "flaot16"))
    monkeypatch.setenv("MMBUILD_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


def findings(text: str) -> list[str]:
    document = json.loads(text)
    assert document["version"] == 1
    return [item["code"] for item in document["diagnostics"]]


@pytest.mark.parametrize("words", sorted(recipe_commands()))
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


@pytest.mark.parametrize("words", [words for words, _ in json_commands()])
def test_an_error_with_a_code_is_printed_as_a_finding_without_a_place(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, code = REFUSED[words]
    (tmp_path / "empty").mkdir()
    if words == "config show":  # it takes no arguments that could be wrong
        monkeypatch.setenv("MMBUILD_CONFIG", str(tmp_path / "empty"))
    line = [*words.split(), *given.split()]
    status = main(line)
    text = capsys.readouterr().err
    assert main([*line, "--json"]) == status != 0
    printed = capsys.readouterr()
    (item,) = json.loads(printed.out)["diagnostics"]
    assert item["code"] == code
    assert item["message"] in text
    assert printed.err == text


@pytest.mark.parametrize("json_lines", [False, True])
def test_an_error_after_a_result_is_printed_only_by_a_command_whose_lines_are_objects(
    json_lines: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    @commands.command("measure", json_lines=json_lines)
    @json_option()
    def measure(*, as_json: bool) -> None:
        print(json.dumps({"result": as_json}))
        raise MmbuildError("too slow", code="MM590", hint="wait")

    status = run_guarded(lambda: measure.main(["--json"], standalone_mode=False))
    printed = capsys.readouterr()
    first, *more = map(json.loads, printed.out.splitlines())
    assert (status, first) == (1, {"result": True})
    assert [item["code"] for document in more for item in document["diagnostics"]] == ["MM590"] * json_lines
    assert printed.err == "error: too slow [MM590]\n\nhint: wait\n"


def test_a_file_that_cannot_be_read_has_the_code_of_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    @commands.command("measure")
    @json_option()
    def measure(**_: bool) -> None:
        Path("missing").read_text()

    assert run_guarded(lambda: measure.main(["--json"], standalone_mode=False)) == 1
    assert findings(capsys.readouterr().out) == ["MM781"]
