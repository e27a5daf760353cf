"""One grammar for all commands: the same option has the same name, and old spellings still work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mmbuild.cli import VERBS, command_group, main
from mmbuild.cli.commands import Option
from mmbuild.cli.other_words import COMMANDS as OTHER_COMMANDS

MORE_OUTPUTS = {"bench": {"--html"}, "ci run": {"--save-times"}, "serve": {"--trace"}}
"""Files that a command writes besides, or instead of, its `--output`."""

OTHER_STATUSES = {
    "eval": {"--min-score"},  # a bound, not a difference
    "lock": {"--check"},  # uv's word; it also writes nothing
}
"""Options that change the exit status and are not `--exit-code`."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it, groups included."""
    root = command_group()
    pending: list[tuple[str, click.Command]] = [("", root)]
    while pending:
        words, command = pending.pop()
        yield words, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                pending.append((f"{words} {name}".strip(), below))


COMMANDS = dict(commands())


def visible(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option) and not one.hidden]


def names(option: click.Option) -> set[str]:
    return {*option.opts, *option.secondary_opts}


OPTIONS = [(words, option) for words, command in COMMANDS.items() for option in visible(command)]


def test_there_are_commands_and_options() -> None:
    assert {*VERBS, "ci plan", "cache gc", "config unset toolchain"} <= set(COMMANDS)
    assert len(OPTIONS) > 150


@pytest.mark.parametrize("old", ["--out", "--detailed-exitcode", "--max-tokens", "--outfile", "--out-file"])
def test_no_command_lists_an_old_spelling(old: str) -> None:
    assert [words for words, option in OPTIONS if old in names(option)] == []


def test_json_is_an_option_and_not_a_format() -> None:
    formats = [option.type for _, option in OPTIONS if "--format" in names(option)]
    assert len(formats) >= 4
    assert not [kind for kind in formats if isinstance(kind, click.Choice) and "json" in kind.choices]


def test_json_means_the_same_everywhere() -> None:
    found = {words: option for words, option in OPTIONS if "--json" in names(option)}
    assert {"plan", "apply", "validate", "ci plan", "ci diff", "explain", "logs", "config show"} <= set(found)
    for words, option in found.items():
        assert option.is_flag, words
        assert (option.help or "").startswith("Print JSON"), words


def test_a_written_file_is_the_output() -> None:
    for words, option in OPTIONS:
        text = option.help or ""
        writes = isinstance(option.type, click.Path) and (
            "rite" in text or "Save" in text or "append" in text
        )
        if writes and not names(option) & MORE_OUTPUTS.get(words, set()):
            assert option.opts == ["-o", "--output"], words
    assert {words for words, option in OPTIONS if "--output" in names(option)} == {
        "plan",
        "init",
        "verify",
        "eval",
        "bench",
        "script",
    }
    for words, others in MORE_OUTPUTS.items():
        assert others <= {name for option in visible(COMMANDS[words]) for name in names(option)}


def test_a_difference_changes_the_exit_status_only_with_exit_code() -> None:
    for words, option in OPTIONS:
        if "xit with" in (option.help or "") and not names(option) & OTHER_STATUSES.get(words, set()):
            assert option.opts == ["--exit-code"], words
            assert option.is_flag
    assert {words for words, option in OPTIONS if "--exit-code" in names(option)} == {
        "plan",
        "diff",
        "compat",
        "ci diff",
    }


def test_every_command_that_reads_recipes_or_models_can_be_offline() -> None:
    readers = {words for words, option in OPTIONS if "--set" in names(option)} | {"lock", "init"}
    offline = {words: option for words, option in OPTIONS if "--offline" in names(option)}
    assert readers == set(offline)
    assert {option.help for option in offline.values()} == {"Do not contact the hub."}


def test_options_with_the_same_help_have_the_same_names() -> None:
    by_help = defaultdict(set)
    for _, option in OPTIONS:
        by_help[option.help].add((*option.opts, *option.secondary_opts))
    assert {text: found for text, found in by_help.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    "name",
    [
        "--json",
        "--output",
        "--exit-code",
        "--offline",
        "--max-new-tokens",
        "--store",
        "--check",
        "--build-dir",
    ],
)
def test_shared_options_are_spelt_alike(name: str) -> None:
    found = {
        (*option.opts, *option.secondary_opts)
        for words, option in OPTIONS
        if name in names(option) and words != "lock"
    }
    assert len(found) == 1


def test_every_build_can_be_named() -> None:
    with_builds = {
        words
        for words, command in COMMANDS.items()
        for parameter in command.params
        if isinstance(parameter, click.Argument) and "BUILD" in (parameter.metavar or "")
    }
    assert with_builds == {
        "run", "chat", "serve", "verify", "eval", "bench", "compare", "diff", "compat", "history"
    }  # fmt: skip
    for words in with_builds - {"history"}:  # its builds are names already
        assert any("--build-dir" in names(option) for option in visible(COMMANDS[words])), words


def test_every_command_accepts_quiet_and_verbose() -> None:
    for words, command in COMMANDS.items():
        accepted = {name for parameter in command.params for name in parameter.opts}
        assert {"-q", "--quiet", "-v", "--verbose"} <= accepted, words
    listed = {words for words, option in OPTIONS if "--verbose" in names(option)}
    assert listed == {"plan", "apply"}


RENAMED = [
    ("plan", ["r", "--detailed-exitcode"], ["r", "--exit-code"], "--detailed-exitcode", "--exit-code"),
    ("verify", ["b", "--out", "f"], ["b", "--output", "f"], "--out", "-o/--output"),
    ("verify", ["b", "--out=f"], ["b", "-o", "f"], "--out", "-o/--output"),
    *(
        (
            words,
            [*given, "--max-tokens", "3"],
            [*given, "--max-new-tokens", "3"],
            "--max-tokens",
            "--max-new-tokens",
        )
        for words, given in (
            ("bench", ["b"]),
            ("run", ["b"]),
            ("chat", ["b"]),
            ("verify", ["b"]),
            ("eval", ["b", "--data", "d"]),
        )
    ),
    *(
        (words, ["r", "--format", "json"], ["r", "--json"], "--format json", "--json")
        for words in ("validate", "ci plan", "ci diff")
    ),
]


@pytest.mark.parametrize(("words", "old", "new", "before", "after"), RENAMED)
def test_an_old_spelling_works_and_names_the_new_one(
    words: str, old: list[str], new: list[str], before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[words]
    expected = command.make_context(words, list(new)).params
    assert capsys.readouterr() == ("", "")
    assert command.make_context(words, list(old)).params == expected
    assert capsys.readouterr() == ("", f"note: `{before}` is now `{after}`\n")


def test_every_old_spelling_is_in_the_table() -> None:
    found = set()
    for words, command in COMMANDS.items():
        for option in command.params:
            if isinstance(option, Option):
                found |= {(words, name) for name in option.old}
                found |= {(words, f"{max(option.opts, key=len)} {value}") for value in option.moved}
    assert found == {(words, before) for words, _, _, before, _ in RENAMED}


def test_the_last_of_two_spellings_does_not_matter_but_the_new_one_counts() -> None:
    context = COMMANDS["verify"].make_context("verify", ["b", "--output", "new", "--out", "old"])
    assert context.params["output"] == Path("new")


def test_an_old_spelling_of_a_value_is_not_confused_with_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    context = COMMANDS["run"].make_context("run", ["b", "--prompt", "--max-tokens"])
    assert context.params["prompts"] == ("--max-tokens",)
    assert capsys.readouterr().err == ""


def test_old_spellings_are_not_in_any_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("plan", "verify", "bench", "validate", "ci diff"):
        assert main([*words.split(), "--help"]) == 0
        text = capsys.readouterr().out
        assert not {"--out ", "--detailed-exitcode", "--max-tokens", "[text|json", "markdown"} & set(
            text.split()
        )


@pytest.mark.parametrize("meant", sorted(set(OTHER_COMMANDS.values())))
def test_what_is_suggested_for_words_of_other_tools_exists(meant: str) -> None:
    assert meant in {*COMMANDS, "--help", "--version"}


def test_no_word_of_another_tool_hides_a_command() -> None:
    assert not set(OTHER_COMMANDS) & set(VERBS)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("up", "apply"),
        ("images", "cache ls"),  # docker
        ("ps", "history"),
        ("sync", "apply"),  # uv
        ("tree", "graph"),
        ("trtllm-build", "apply"),
        ("trtllm-serve", "serve"),
        ("api-server", "serve"),  # vllm
        ("destroy", "cache gc"),  # terraform
        ("refresh", "plan"),
        ("all", "apply"),  # make
        ("query", "graph"),  # bazel
        ("log", "logs"),
        ("buidl", "apply"),
    ],
)
def test_words_of_other_tools(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert f"no command `{word}`; did you mean `mmbuild {meant}`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "meant"),
    [("rum", "run"), ("rune", "run"), ("rnu", "run"), ("aply", "apply"), ("rm", "cache gc")],
)
def test_a_typing_mistake_is_a_command_and_deleting_needs_the_exact_word(word, meant, capsys):
    assert main([word, "model"]) == 2
    assert capsys.readouterr().err == (
        f"error: no command `{word}`; did you mean `mmbuild {meant}`?\n\nhint: `mmbuild --help` shows the usage\n"
    )


@pytest.mark.parametrize("word", [word for word, command in OTHER_COMMANDS.items() if command == "cache gc"])
def test_a_word_similar_to_a_deleting_one_suggests_no_deletion(word, capsys):
    assert main([f"{word}x"]) == 2
    assert "cache gc" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["help"], "Usage: mmbuild [OPTIONS] COMMAND"),
        (["help", "run"], "Usage: mmbuild run [OPTIONS] BUILD"),
        (["help", "cache", "gc"], "Usage: mmbuild cache gc [OPTIONS]"),
    ],
)
def test_help_is_a_command(words, usage, capsys):
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(usage)
    assert main([*words[1:], "--help"]) == 0
    assert capsys.readouterr().out == shown


def test_help_for_an_unknown_command(capsys):
    assert main(["help", "rum"]) == 2
    assert "no command `rum`; did you mean `mmbuild run`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        (["--quantization", "int4"], "engine.quantization=int4"),
        (["--tp-size=2"], "engine.tensor_parallel=2"),
        (["--dtype"], "engine.dtype=VALUE"),
    ],
)
def test_an_option_named_like_a_key_is_answered_with_set(option, setting, capsys):
    assert main(["apply", "x.yaml", *option]) == 2
    name = option[0].partition("=")[0]
    assert capsys.readouterr().err == (
        f"error: No such option '{name}'; for a key of the recipe use `--set {setting}`\n\n"
        "hint: `mmbuild apply --help` shows the usage\n"
    )


@pytest.mark.parametrize(
    "words", [["apply", "x.yaml", "--frobnicate"], ["run", "x", "--quantization", "int4"]]
)
def test_other_unknown_options_are_not_settings(words, capsys):
    assert main(words) == 2
    assert "--set" not in capsys.readouterr().err


@pytest.mark.parametrize("size", ["20", "1.5", "20bb", "GB"])
def test_a_size_needs_a_unit(size, capsys):
    assert main(["cache", "gc", "--max-size", size]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: Invalid value for '--max-size': invalid size '{size}': expected for example 500MB or 20GB\n"
    )


@pytest.mark.parametrize(
    ("size", "count"), [("0", 0), ("20b", 20), ("2k", 2_000), ("500MB", 5e8), ("1.5 GB", 1.5e9), ("2t", 2e12)]
)
def test_sizes_with_units(size, count):
    from mmbuild.cli.cache import command

    option = next(one for one in command.commands["gc"].params if one.name == "max_size")
    assert option.type.convert(size, None, None) == count


@pytest.mark.parametrize("words", [[], ["cache"], ["config"], ["ci"]])
def test_a_group_without_a_command_prints_its_help_and_no_error(capsys, words):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: mmbuild")
    assert "hint:" not in err


@pytest.mark.parametrize("group", ["cache", "config", "ci"])
def test_lists_of_commands_are_not_cut(capsys, group):
    assert main([group, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]
