"""Words of other tools and mistyped ones: the error names the command, option or key that is meant."""

from __future__ import annotations

import click
import pytest

from mmbuild.cli import command_group, main
from mmbuild.cli.other_words import COMMANDS, DELETING, IN_GROUPS, OPTIONS

RUN = 'mmbuild run build/llava-shapes-int4 --image a.png --prompt "how many shapes ?"'
SUFFIX = "\n\nhint: "


def message(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The error of a wrong command line, without its hint."""
    assert main(words) == 2
    printed, _, hint = capsys.readouterr().err.partition(SUFFIX)
    assert hint.endswith("--help` shows the usage\n")
    return printed.removeprefix("error: ")


def group(name: str) -> click.Group:
    root = command_group()
    found = root.get_command(click.Context(root), name)
    assert isinstance(found, click.Group)
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["PLAN", "x"], "no command `PLAN`; did you mean `mmbuild plan`?"),
        (["completion"],
         """no command `completion`; add `eval "$(_MMBUILD_COMPLETE=bash_source mmbuild)"` to ~/.bashrc; """
         "`mmbuild --help` has zsh and fish"),
        (["download", "x"], "no command `download`; did you mean `mmbuild cache pull`?"),
        (["login"], "no command `login`; set HF_TOKEN to a token of the hub"),
        (["cache", "prune"], "`mmbuild cache` has no command `prune`; did you mean `mmbuild cache gc`?"),
        (["cache", "LS"], "`mmbuild cache` has no command `LS`; did you mean `mmbuild cache ls`?"),
        (["ci", "list"], "`mmbuild ci` has no command `list`; did you mean `mmbuild ci plan`?"),
        (["ci", "x"], "`mmbuild ci` has no command `x`; its commands are plan, run, diff"),
        (["config", "get"], "`mmbuild config` has no command `get`; did you mean `mmbuild config show`?"),
        (["config", "unset", "x"], "`mmbuild config unset` has no command `x`; its commands are tensorrt, toolchain"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_commands(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message(capsys, words) == expected


def test_a_word_that_is_similar_to_none_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert "commands are init, validate" in message(capsys, ["train"])  # `tail` means `logs`


def test_setting_does_not_suggest_unsetting(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unset" not in message(capsys, ["config", "set", "store.remote", "s3://x"])


@pytest.mark.parametrize("word", [f"{word}x" for word, meant in IN_GROUPS["cache"].items() if meant == "gc"])
def test_a_word_similar_to_a_deleting_one_suggests_no_deletion(word, capsys):
    assert "did you mean `mmbuild cache gc`" not in message(capsys, ["cache", word])


def test_a_new_deleting_command_is_on_the_list():
    assert {"gc", "unset"} <= set(DELETING)
    assert "cache gc" in DELETING


@pytest.mark.parametrize("name", IN_GROUPS)
def test_words_of_a_group_are_answered_with_its_commands_and_hide_none(name: str) -> None:
    commands = set(group(name).list_commands(click.Context(group(name))))
    assert set(IN_GROUPS[name].values()) <= commands
    assert not set(IN_GROUPS[name]) & commands


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "x", "--images", "a.png"], "did you mean `--image`?"),
        (["run", "x", "-i", "a.png"], "did you mean `--image`?"),
        (["run", "x", "-p", "hi"], "did you mean `--prompt`?"),
        (["serve", "x", "-p", "80"], "did you mean `--port`?"),
        (["serve", "x", "--served-model-name", "y"], "did you mean `--model-name`?"),
        (["apply", "x.yaml", "-n"], "did you mean `--dry-run`?"),
        (["plan", "x.yaml", "--format", "json"], "did you mean `--json`?"),
        (["cache", "gc", "--dry-rn"], "did you mean `--dry-run`?"),
        (["-V"], "did you mean `--version`?"),
        (
            ["serve", "x", "--tensor-parallel-size", "2"],
            "it is fixed when the engine is built: set `engine.tensor_parallel` in the recipe and apply it again",
        ),
        (
            ["serve", "x", "--max-model-len", "4096"],
            "vLLM's max_model_len is max_input_len + max_output_len, which the recipe sets",
        ),
        (
            ["apply", "x.yaml", "--max-model-len", "4096"],
            "vLLM's max_model_len is max_input_len + max_output_len, which the recipe sets",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    option = next(word for word in words if word.startswith("-"))
    assert message(capsys, words) == f"No such option '{option}'; {expected}"


@pytest.mark.parametrize(
    "words", [["plan", "x", "--frobnicate"], ["--frobnicate"], ["cache", "--frobnicate"]]
)
def test_an_option_that_is_similar_to_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert message(capsys, words) == "No such option '--frobnicate'"


def test_options_of_other_tools_are_no_options_of_ours() -> None:
    root = command_group()
    below = [root.get_command(click.Context(root), name) for name in root.list_commands(click.Context(root))]
    known = {name for command in [root, *below] if command for one in command.params for name in one.opts}
    assert {option for options in OPTIONS.values() for option in options} <= known
    assert {"--img", "--dataset", "--served-model-name", "--what-if"} & known == set()


def test_old_spellings_are_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--max-tokens" not in message(capsys, ["run", "x", "--max-tokenz", "3"])


@pytest.mark.parametrize(
    ("words", "example"),
    [
        (["run"], RUN),
        (["run", "x", "a.png", "how many ?"], RUN),
        (["eval", "x"], "mmbuild eval build/llava-shapes-int4 --data questions.jsonl --min-score 0.9"),
        (["ci", "run"], "mmbuild ci run recipes --job llava-1.5-7b-int4"),
        (["explain", "MM103", "x"], "mmbuild explain MM103"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_missing_and_superfluous_words_are_answered_with_an_example(words, example, capsys):
    assert main(words) == 2
    hint = capsys.readouterr().err.partition(SUFFIX)[2]
    assert hint.startswith(f"for example `{example}`; `mmbuild ")


def test_every_word_leads_somewhere() -> None:
    assert "" not in {
        *COMMANDS.values(),
        *(meant for words in IN_GROUPS.values() for meant in words.values()),
    }
