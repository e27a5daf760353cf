"""The command line. The module of a command is imported only when that command runs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

GROUPS: Mapping[str, Mapping[str, str]] = {
    "Build": {
        "init": "Write a recipe for a model",
        "validate": "Check recipes without building anything",
        "plan": "Show what apply would do, and why",
        "apply": "Build what is missing and install the engines",
        "lock": "Pin what recipes leave open: commits, versions, digests, target",
    },
    "Use": {
        "run": "Run a built engine on images and prompts",
        "chat": "Talk to a built engine in a terminal",
        "serve": "Serve a built engine over OpenAI's protocol",
        "verify": "Compare a built engine with its source model",
        "eval": "Score the answers of a built engine on a data set",
        "bench": "Measure latency and throughput of an engine or of a server",
        "script": "Write TensorRT-LLM's commands, or a server's, as a shell script",
    },
    "Understand": {
        "why": "Explain why actions run, down to the edited line",
        "diff": "Show the differences between two builds",
        "compare": "Compare builds side by side: precision, size, quality, speed",
        "history": "List past builds, their duration and the time the store saved",
        "logs": "Print the output of actions, also of those that failed",
        "graph": "Draw the action graph of recipes",
        "compat": "Show which hosts can load a built engine",
        "explain": "Explain a diagnostic code such as MM103",
        "schema": "Print the JSON Schema of recipes",
    },
    "Team": {
        "ci": "Jobs for a CI service: plan and run them, show what a change costs",
    },
    "Machine": {
        "doctor": "Check whether this host can build",
        "config": "Configure where toolchains and TensorRT are on this host",
        "cache": "List, check and shrink the store",
    },
}
"""Command name -> its line of ``--help``, by group. Module ``mmbuild.cli.<name>`` defines ``command``."""

VERBS: Mapping[str, str] = {name: line for verbs in GROUPS.values() for name, line in verbs.items()}

_RENAMED: Mapping[str, str] = {"matrix": "plan", "matrix-diff": "diff"}
"""Old command -> command of ``mmbuild ci``."""

_WIDEST = max(map(len, VERBS))

_INTERRUPTED = 130
"""Exit status, as in :mod:`mmbuild.cli.output`, which is not imported for `--version`."""

_HELP = """Declarative builds of vision-language inference engines.

\b
Example:
  mmbuild validate recipes/demo/llava-int4.yaml
  mmbuild apply recipes/demo/llava-int4.yaml
  mmbuild run build/llava-shapes-int4 --image picture.png --prompt "..."

Exit status: 0 success, 1 invalid input, a failed build or output that could not be written, 2 wrong usage
or a bug in mmbuild, 3 changes (plan --exit-code), 4 a stale plan, 130 interrupted. A reader that
exits early (`| head`) neither stops the work nor changes the status.

\b
Completion: add this to your shell's start-up file
  bash: eval "$(_MMBUILD_COMPLETE=bash_source mmbuild)"
  zsh:  eval "$(_MMBUILD_COMPLETE=zsh_source mmbuild)"
  fish: _MMBUILD_COMPLETE=fish_source mmbuild | source
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mmbuild`` with ``arguments`` (``sys.argv`` if None) and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _print_version() if words == ["--version"] else _run(words)
    except KeyboardInterrupt:  # while modules are imported
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


def _run(words: list[str]) -> int:
    # Plans and records are thousands of objects without cycles: collecting cycles costs 5 % of an idle apply.
    gc.set_threshold(50_000, 20, 50)
    from mmbuild.cli.output import run_guarded

    # No system call accepts NUL, and a shell cannot pass it; only a Python caller can.
    words = [text.replace("\0", "\\0") for text in words]

    # --debug is accepted anywhere: users append it to the line that failed.
    debug = "--debug" in words and not _after_separator(words)
    if debug:
        words.remove("--debug")
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    return run_guarded(
        lambda: command_group().main(words, prog_name="mmbuild", standalone_mode=False, obj={"debug": debug}),
        debug=debug,
    )


def _print_version() -> int:
    """Print the version without importing click, which takes longer than the rest."""
    from mmbuild._version import __version__
    from mmbuild.base.output_streams import guarded_streams, output_lost_error

    with guarded_streams() as (out, _):
        print(f"mmbuild {__version__}")
        out.flush()
        if out.lost:
            print(f"error: {output_lost_error(out.lost).message} [MM780]", file=sys.stderr)
        return 1 if out.lost else 0


def _after_separator(words: list[str]) -> bool:
    return "--" in words and words.index("--") < words.index("--debug")


def command_group() -> click.Group:
    """The command ``mmbuild``."""
    import click

    from mmbuild._version import __version__
    from mmbuild.cli import commands

    class Verbs(commands.Group):
        """Lists the commands without importing their modules."""

        def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
            return list(VERBS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
            if cmd_name in _RENAMED:
                return _renamed(cmd_name)
            if cmd_name not in VERBS:
                return None
            import importlib

            command: click.Command = importlib.import_module(f"mmbuild.cli.{cmd_name}").command
            return command

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
            for title, verbs in GROUPS.items():
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(_WIDEST), line) for name, line in verbs.items()])

        def unknown_command(self, ctx: click.Context, word: str) -> str:  # noqa: ARG002
            from mmbuild.cli.other_words import unknown_command

            return unknown_command(word, VERBS)

    group = Verbs("mmbuild", help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
    group = click.version_option(__version__, message="mmbuild %(version)s")(group)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(group)


def _renamed(word: str) -> click.Command:
    from mmbuild.cli import ci
    from mmbuild.cli.output import print_note

    print_note(f"note: `mmbuild {word}` is now `mmbuild ci {_RENAMED[word]}`")
    return ci.subcommand(_RENAMED[word])
