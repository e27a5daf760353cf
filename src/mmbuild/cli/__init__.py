"""The command line. A verb's module is imported only when that verb is used."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

VERBS = {
    "validate": "Judge recipes without building anything",
    "plan": "Show what apply would do, and why",
    "apply": "Build what is missing and lay out the engines",
    "matrix": "Cut recipes into the jobs of a CI service",
    "matrix-diff": "Say what a change of recipes costs",
    "ci": "Run one job of a matrix, or one of several shards",
    "lock": "Pin what recipes do not say: commits, versions, digests, target",
    "run": "Ask a built engine about images",
    "verify": "Compare a built engine with the model it came from",
    "compare": "Put builds side by side: precision, size, quality, speed",
    "why": "Say why actions run, back to the edited line",
    "diff": "Say what is different between two builds",
    "history": "List what was built, how long it took, what the store saved",
    "graph": "Draw the actions of recipes",
    "script": "Write the commands of a TensorRT-LLM version as a shell script",
    "config": "Say where toolchains and TensorRT are on this host",
    "doctor": "Find what this host lacks for a build",
    "compat": "Say where a built engine loads",
    "schema": "Print the JSON Schema of recipes",
    "explain": "Say more about a code such as MM103",
    "cache": "List, check and shrink the store",
}
"""Verb -> the line of the help. ``mmbuild.cli.<verb>`` (with ``_`` for ``-``) has it as ``command``."""

_HELP = """Declarative builds of vision-language inference engines.

\b
Example:
  mmbuild validate recipes/demo/llava-int4.yaml
  mmbuild apply recipes/demo/llava-int4.yaml
  mmbuild run build/llava-shapes-int4 --image picture.png --prompt "..."

\b
Exit status: 0 done, 1 the input or the build is at fault, or output could not be written, 2 wrong usage
or a bug of mmbuild, 3 changes (plan --detailed-exitcode), 4 a stale plan, 130 interrupted. A reader that
ends early (`| head`) stops no work and changes no status.

\b
Completion: put this into the shell's start-up file
  bash: eval "$(_MMBUILD_COMPLETE=bash_source mmbuild)"
  zsh:  eval "$(_MMBUILD_COMPLETE=zsh_source mmbuild)"
  fish: _MMBUILD_COMPLETE=fish_source mmbuild | source
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mmbuild``; returns the exit status (``sys.argv`` when ``arguments`` is None)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        return _print_version()
    # Plans and records are thousands of objects without cycles: looking for those takes a twentieth of an idle apply.
    gc.set_threshold(50_000, 20, 50)
    from mmbuild.cli.output import run_guarded

    given = [
        text.replace("\0", "\\0") for text in given
    ]  # which no system call takes; a shell cannot write one

    # --debug may stand anywhere: who sees a failure appends it to the line.
    debug = "--debug" in given and not _after_separator(given)
    if debug:
        given.remove("--debug")
    return run_guarded(
        lambda: _group().main(given, prog_name="mmbuild", standalone_mode=False, obj={"debug": debug}),
        debug=debug,
    )


def _print_version() -> int:
    """Without what the verbs need, which takes longer to import than to run."""
    from mmbuild._version import __version__
    from mmbuild.base.output_streams import guarded_streams, output_lost_error

    with guarded_streams() as (out, _):
        print(f"mmbuild {__version__}")
        out.flush()
        if out.lost:
            print(f"error: {output_lost_error(out.lost).message} [MM780]", file=sys.stderr)
        return 1 if out.lost else 0


def _after_separator(given: list[str]) -> bool:
    return "--" in given and given.index("--") < given.index("--debug")


def _group() -> click.Group:
    import click

    from mmbuild._version import __version__

    class Verbs(click.Group):
        """Knows its verbs without importing them."""

        def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
            return list(VERBS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
            if cmd_name not in VERBS:
                return None
            import importlib

            module = cmd_name.replace("-", "_")
            command: click.Command = importlib.import_module(f"mmbuild.cli.{module}").command
            return command

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
            with formatter.section("Commands"):
                formatter.write_dl(list(VERBS.items()))

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            if args and args[0] not in VERBS and not args[0].startswith("-"):
                raise click.UsageError(_unknown_verb(args[0]), ctx)
            return super().resolve_command(ctx, args)

    group = Verbs("mmbuild", help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
    group = click.version_option(__version__, message="mmbuild %(version)s")(group)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(group)


def _unknown_verb(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, VERBS, n=1)
    meant = f"; did you mean `{near[0]}`?" if near else f"; verbs are {', '.join(VERBS)}"
    return f"no verb `{word}`{meant}"
