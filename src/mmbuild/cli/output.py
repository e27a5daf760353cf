"""Terminal output shared by all commands: colours, errors, exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mmbuild.base.errors import MmbuildError
from mmbuild.base.terminal_text import clean

if TYPE_CHECKING:
    from mmbuild.base.diagnostics import Diagnostic
    from mmbuild.core.execution.failures import Failed

INTERRUPTED = 130
OUR_BUG = 2
_CHANGES = 3
"""``plan --exit-code``."""

_LONGEST_NAME = 200

_CONTINUATION = "\n  | "
"""Starts each further line of a message, so that none looks like a line of mmbuild or a CI workflow command."""

_STYLES = {"error": "31;1", "hint": "32", "label": "36", "dim": "2", "work": "33;1"}
_VERDICTS = {"run": "work", "up to date": "dim"}
"""Style of a verdict in a plan; others have that of labels."""


def print_status(text: str = "") -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr)


def print_note(text: str = "") -> None:
    """Print a line to standard error, except with ``-q``: what a command did besides its result, or a hint.

    It is folded to the width of a terminal.
    """
    from mmbuild.cli.verbosity import is_quiet

    if not is_quiet():
        print_status(_folded(text))


def styled_verdict(verdict: str, text: str) -> str:
    """``text`` in the colour of ``verdict`` if standard output takes colours."""
    return _styled(_VERDICTS.get(verdict, "label"), text, sys.stdout)


def _styled(style: str, text: str, stream: TextIO | None = None) -> str:
    """``text`` in the colour of ``style`` if ``stream`` (default: standard error) takes colours."""
    if not use_color(stream):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def use_color(stream: TextIO | None = None) -> bool:
    """Whether ``stream`` (default: standard error) is a terminal and colours are not disabled."""
    return (
        (stream or sys.stderr).isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


def run_guarded(body: Callable[[], Any], *, debug: bool = False) -> int:
    """Run ``body`` with guarded streams, report any exception, and return the exit status."""
    from mmbuild.base.output_streams import guarded_streams, output_lost_error

    with guarded_streams() as (out, err):
        try:
            status = _status_of(body, debug)
            out.flush()
            err.flush()
        except KeyboardInterrupt:  # while reporting an error
            print_status("interrupted")
            return INTERRUPTED
        if out.lost:
            report_error(output_lost_error(out.lost))
            return status if status not in (0, _CHANGES) else 1
        return status


def _status_of(body: Callable[[], Any], debug: bool) -> int:
    import click

    try:
        status = body()
    except SystemExit as stop:
        return _status(stop.code)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort) as stop:
        print_status(_interrupted(stop))
        return INTERRUPTED
    except click.ClickException as error:
        _report_usage(error)
        return OUR_BUG
    except MmbuildError as error:
        _print_traceback(debug)
        report_error(error)
        return error.exit_status
    except (OSError, MemoryError) as error:
        _print_traceback(debug)
        report_error(coded(error))
        return 1
    except Exception as error:
        _print_traceback(debug)
        _report_bug(error)
        return OUR_BUG
    return _status(status)


class ResumableInterruptError(KeyboardInterrupt):
    """Ctrl-C in a command that keeps finished actions and continues when it is run again."""


def _interrupted(stop: BaseException) -> str:
    if isinstance(stop.__cause__ or stop, ResumableInterruptError):  # click raises Abort from what it caught
        return "interrupted; finished actions are kept, run the same command again to continue"
    return "interrupted"


def coded(error: MmbuildError | OSError | MemoryError) -> MmbuildError:
    """``error`` with a code: those of the file system or of memory are not bugs in mmbuild."""
    if isinstance(error, MmbuildError):
        return error
    if isinstance(error, MemoryError):
        return MmbuildError(
            "there is not enough memory", code="MM782", hint="free some memory, or use a larger machine"
        )
    if error.filename is None and _directory_is_gone():
        return MmbuildError(
            "the current directory no longer exists",
            code="MM781",
            hint="change to another directory, or run `cd .` if this one was created again",
        )
    name = "" if error.filename is None else os.fsdecode(os.fspath(error.filename))
    shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    where = f"`{shown}`: " if shown else ""
    return MmbuildError(
        f"{where}{error.strerror or _first_line(error) or type(error).__name__}",
        code="MM781",
        hint="check the path, its permissions and its disk; `--debug` shows where it was used",
    )


def _directory_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def report_error(error: MmbuildError) -> None:
    """Print ``error:``, the causes, a blank line, ``hint:``."""
    diagnostics = getattr(error, "diagnostics", None)
    if diagnostics:
        print_findings(diagnostics)
        return
    _head(error.message, error.code)
    for line in getattr(error, "details", ()):
        print_status(f"  {_lines(line)}".rstrip())
    cause = error.__cause__
    while cause is not None:
        print_status(f"  caused by: {type(cause).__name__}: {_first_line(cause)}")
        cause = cause.__cause__
    _print_hint(error.hint)


def print_findings(diagnostics: Sequence[Diagnostic]) -> None:
    """Print findings to standard error, folded and in colours on a terminal."""
    from mmbuild.base.diagnostics import render_text

    print_status(render_text(diagnostics, color=use_color(), width=_stderr_width()).rstrip())


def print_failures(failed: int, ran: int) -> None:
    """Print the last line of an apply that failed."""
    print_status(f"{_styled('error', f'{failed} failed')}, {ran} ran; finished actions are kept")


def report_failed(failed: Failed, *, debug: bool = False) -> None:
    """Print a failed action: the error, its causes and the log."""
    _head(failed.message, failed.code)
    for cause in failed.causes:
        print_status(f"  caused by: {_lines(cause)}")
    for line in failed.tail:
        print_status(f"  | {_lines(line)}")
    if debug and failed.traceback:
        print_status(clean(failed.traceback.rstrip()))
    print_status(f"  log: {_log_command(failed)}")
    for directory in failed.aside:
        print_status(f"  the refused engine: {directory}")
        if (page := Path(directory) / "verify" / "report.html").is_file():
            print_status(f"  its report: {page}")
    _print_hint(failed.hint)


def _log_command(failed: Failed) -> str:
    """The command that prints the log of a failed action."""
    import shlex

    from mmbuild.core.store.layout import default_root

    store = Path(failed.log).parents[1]
    other = "" if store == default_root() else f" --store {shlex.quote(str(store))}"
    return f"`mmbuild logs {shlex.quote(failed.label)}{other}`"


def _report_usage(error: Any) -> None:
    """Print a usage error: click's message in the format of mmbuild; a command without arguments gets its help."""
    from click.exceptions import NoArgsIsHelpError

    if isinstance(error, NoArgsIsHelpError):
        print_status(error.format_message())
        return
    _head(error.format_message())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "mmbuild"
    example = _example(context.command) if context is not None and _lacks_words(error) else ""
    shown = f"for example `{example}`; " if example else ""
    _print_hint(f"{shown}`{command} --help` shows the usage")


def _lacks_words(error: Any) -> bool:
    """Whether an argument or a required option is missing, or there are more words than arguments."""
    from click import MissingParameter

    return isinstance(error, MissingParameter) or "unexpected extra argument" in error.message


def _example(command: Any) -> str:
    """The first example in a command's help, without its comment; "" if it has none."""
    _, _, examples = (command.help or "").partition("Example:\n")
    return examples.partition("\n")[0].partition("  #")[0].strip()


def _report_bug(error: Exception) -> None:
    """Print an unexpected exception."""
    _head(f"{type(error).__name__}: {_first_line(error)}")
    _print_hint("this is a bug in mmbuild; please report it with the output of `--debug`")


def _head(message: str, code: str = "") -> None:
    """Print the ``error:`` line, on standard output if standard error cannot be written."""
    shown = _lines(message)
    coded = f" [{code}]" if code else ""
    folded = _folded(f"error: {shown}{coded}").removeprefix("error:").removesuffix(coded.strip())
    print_status(f"{_styled('error', 'error:')}{folded}{_styled('dim', coded.strip()) if code else ''}")
    if getattr(sys.stderr, "lost", ""):
        print(f"error: {shown} [{code}]" if code else f"error: {shown}")


def _folded(text: str) -> str:
    """``text`` folded to the width of the terminal that standard error is, if it is one."""
    width = _stderr_width()
    if width is None:
        return text
    from mmbuild.base.folding import fold_all

    return fold_all(text, width)


def _stderr_width() -> int | None:
    """Columns of the terminal that standard error is; None if it is not a terminal."""
    if not sys.stderr.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def _lines(text: str) -> str:
    """``text`` cleaned, with its further lines marked."""
    return clean(text, newline=_CONTINUATION).replace(f"{_CONTINUATION}  | ", _CONTINUATION)


def _print_hint(hint: str | None) -> None:
    if hint:
        print_status()
        folded = _folded(f"hint: {_lines(hint)}").removeprefix("hint:")
        print_status(f"{_styled('hint', 'hint:')}{folded}")


def _print_traceback(debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()


def _first_line(error: BaseException) -> str:
    return clean(str(error).partition("\n")[0])


def _status(code: object) -> int:
    if code is None or code is True:
        return 0
    return code if isinstance(code, int) else 1
