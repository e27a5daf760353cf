"""Commands, recipes, make targets and links on all pages exist."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mmbuild.cli import command_group
from mmbuild.cli.options import APPLY_OPTIONS
from mmbuild.core.execution.options import ApplyOptions
from support.pages import PAGES, ROOT, blocks, mmbuild_commands, shell_words, shorthands

cli = command_group()
OTHER_PROGRAMS = {"docker", "find", "git", "mpirun", "nvidia-ctk", "pip", "podman", "pytest", "python"}
COMMANDS = [command for page in PAGES for command in mmbuild_commands(page)]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that ``words`` name, and the words after it."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        assert words, f"`{command.name}` needs a command"
        context = click.Context(command)
        found = command.get_command(context, words[0]) if words[0] in command.list_commands(context) else None
        assert found is not None, f"no command `{words[0]}`"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[place for place, _ in COMMANDS])
def test_the_command_and_its_options_exist(place: str, words: list[str]) -> None:
    command, rest = resolve(words)
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help"}, place


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[place for place, _ in COMMANDS])
def test_the_command_line_is_complete_and_its_values_are_allowed(place: str, words: list[str]) -> None:
    command, rest = resolve(words)
    if "--help" in rest:
        return
    try:
        command.make_context(" ".join(words), rest)
    except click.UsageError as error:
        pytest.fail(f"{place}: {error.format_message()}")


def test_commands_of_all_kinds_of_blocks_are_found() -> None:
    ci = [words for place, words in COMMANDS if place.startswith("docs/ci.md:")]
    assert ["ci", "diff", "$BASE"] in ci  # a workflow
    assert any("--changed-since" in words and "gpu=gpu,sm{sm}" in words for words in ci)  # on two lines
    assert ["ci", "run", "$RECIPES", "--job", "$JOB", "--format", "github"] in ci  # after `&&`
    serving = [words for place, words in COMMANDS if place.startswith("docs/serving.md:")]
    assert sum(words[:2] == ["serve", "/engine"] for words in serving) == 1  # a Dockerfile
    assert sum(words[:2] == ["serve", "/srv/engines/llava"] for words in serving) == 1  # a unit


def examples() -> Iterator[tuple[str, list[str]]]:
    """The command and the words of every example in the help of a command."""
    pending: list[tuple[str, click.Command]] = [("mmbuild", cli)]
    while pending:
        name, command = pending.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            found = [(below, command.get_command(context, below)) for below in command.list_commands(context)]
            pending += [(f"{name} {below}", one) for below, one in found if one is not None]
        _, _, shown = (command.help or "").partition("Example:\n")
        lines = itertools.takewhile(str.strip, shown.replace("\\\n", " ").splitlines())
        yield from ((name, shell_words(line)[1:]) for line in lines if line.strip().startswith("mmbuild "))


@pytest.mark.parametrize(("name", "words"), [*examples()])
def test_examples_in_the_help_are_complete(name: str, words: list[str]) -> None:
    test_the_command_and_its_options_exist(name, words)
    test_the_command_line_is_complete_and_its_values_are_allowed(name, words)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=page_name)
def test_shorthands_in_the_text_are_commands(page: Path) -> None:
    """`plan --locked` is read as a command of mmbuild; other programs are listed."""
    for words in shorthands(page):
        if words[0] not in {"mmbuild", *OTHER_PROGRAMS}:
            command, rest = resolve(words)
            known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
            assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, words


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[place for place, _ in COMMANDS])
def test_the_recipes_exist(place: str, words: list[str]) -> None:
    for word in words:
        if word.startswith("recipes/") and not set(word) & set("*["):
            assert (ROOT / word).exists(), place


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_verbs_in_the_text_exist(page: Path) -> None:
    for verbs in re.findall(r"`mmbuild ([a-z][a-z -]*[a-z\\|]*)", page.read_text("utf-8")):
        first, *rest = verbs.split()
        command = cli.get_command(click.Context(cli), first)
        assert command is not None, verbs
        for second in rest[0].split("\\|") if rest and isinstance(command, click.Group) else []:
            assert second in command.list_commands(click.Context(command)), verbs


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    shell = "".join(block.text for block in blocks(page) if block.language in ("console", "sh", ""))
    assert set(re.findall(r"^make ([a-z-]+)", shell, re.M)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_start_page_lists_every_page() -> None:
    start = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", start)}
    pages = {page for page in PAGES if page.parent == ROOT / "docs"}
    assert pages - {ROOT / "docs" / "README.md"} <= linked


def test_every_option_of_apply_is_on_the_page_and_on_the_command_line() -> None:
    names = [field.name for field in dataclasses.fields(ApplyOptions)]
    page = (ROOT / "docs" / "python-api.md").read_text("utf-8")
    section = page.partition("\n## apply\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\w+) \|", section, re.M) == ["field", *names]
    assert list(APPLY_OPTIONS) == names
