"""What every verb shares in speaking to a person: colours, errors, exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.terminal_text import clean

if TYPE_CHECKING:
    from mmbuild.core.execution.failures import Failed

INTERRUPTED = 130
OUR_BUG = 2
_CHANGES = 3
"""``plan --detailed-exitcode``."""

_LONGEST_NAME = 200

_FURTHER = "\n  | "
"""Before further lines of a message: none of them looks like a line of ours, or like a command to a CI service."""

_STYLES = {"error": "31;1", "hint": "32", "label": "36", "dim": "2"}


def print_status(text: str = "") -> None:
    """A line for people: to standard error."""
    print(text, file=sys.stderr)


def styled(style: str, text: str) -> str:
    """``text`` coloured for standard error, where that is a terminal and NO_COLOR is not set."""
    if not use_color():
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def use_color() -> bool:
    """Whether standard error takes colours."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def run_guarded(body: Callable[[], Any], *, debug: bool = False) -> int:
    """Run ``body`` with cleaned streams, report what it raises, and return the exit status."""
    from mmbuild.base.output_streams import guarded_streams, output_lost_error

    with guarded_streams() as (out, err):
        try:
            status = _status_of(body, debug)
            out.flush()
            err.flush()
        except KeyboardInterrupt:  # while an error was reported
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
    except (KeyboardInterrupt, click.Abort):
        print_status("interrupted; finished actions are kept, run the same command to go on")
        return INTERRUPTED
    except click.ClickException as error:
        report_usage(error)
        return OUR_BUG
    except MmbuildError as error:
        _print_traceback(debug)
        report_error(error)
        return error.exit_status
    except (OSError, MemoryError) as error:
        _print_traceback(debug)
        report_error(_of_the_machine(error))
        return 1
    except Exception as error:
        _print_traceback(debug)
        report_bug(error)
        return OUR_BUG
    return _status(status)


def _of_the_machine(error: OSError | MemoryError) -> MmbuildError:
    """What a file system or the memory refuses is not a bug of ours."""
    if isinstance(error, MemoryError):
        return MmbuildError(
            "there is not enough memory", code="MM782", hint="free some, or use a larger machine"
        )
    name = "" if error.filename is None else os.fsdecode(os.fspath(error.filename))
    shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    where = f"`{shown}`: " if shown else ""
    return MmbuildError(
        f"{where}{error.strerror or _first_line(error) or type(error).__name__}",
        code="MM781",
        hint="look at the path, its rights and its disk; `--debug` shows where it was used",
    )


def report_error(error: MmbuildError) -> None:
    """``error:``, the causes, a blank line, ``hint:``."""
    diagnostics = getattr(error, "diagnostics", None)
    if diagnostics:
        from mmbuild.base.diagnostics import render_text

        print_status(render_text(diagnostics, color=use_color()).rstrip())
        return
    _head(error.message, error.code)
    for line in getattr(error, "details", ()):
        print_status(f"  {_lines(line)}".rstrip())
    cause = error.__cause__
    while cause is not None:
        print_status(f"  caused by: {type(cause).__name__}: {_first_line(cause)}")
        cause = cause.__cause__
    _print_hint(error.hint)


def report_failed(failed: Failed, *, debug: bool = False) -> None:
    """A failed action: what happened, what it came from, the log."""
    _head(failed.message, failed.code)
    for cause in failed.causes:
        print_status(f"  caused by: {_lines(cause)}")
    for line in failed.tail:
        print_status(f"  | {_lines(line)}")
    if debug and failed.traceback:
        print_status(clean(failed.traceback.rstrip()))
    print_status(f"  log: {failed.log}")
    for place in failed.aside:
        print_status(f"  the refused engine: {place}")
        if (page := Path(place) / "verify" / "report.html").is_file():
            print_status(f"  what was found of it: {page}")
    _print_hint(failed.hint)


def report_usage(error: Any) -> None:
    """A wrong command line: click's message in our form."""
    _head(error.format_message())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "mmbuild"
    _print_hint(f"`{command} --help` shows how it is used")


def report_bug(error: Exception) -> None:
    """Anything that nobody foresaw."""
    _head(f"{type(error).__name__}: {_first_line(error)}")
    _print_hint("this is a bug in mmbuild; please report it with what `--debug` shows")


def _head(message: str, code: str = "") -> None:
    """The line that says what is wrong: on standard output where nothing can be written to standard error."""
    shown = _lines(message)
    coded = f" {styled('dim', f'[{code}]')}" if code else ""
    print_status(f"{styled('error', 'error:')} {shown}{coded}")
    if getattr(sys.stderr, "lost", ""):
        print(f"error: {shown} [{code}]" if code else f"error: {shown}")


def _lines(text: str) -> str:
    """``text`` cleaned, its further lines marked."""
    return clean(text, newline=_FURTHER).replace(f"{_FURTHER}  | ", _FURTHER)


def _print_hint(hint: str | None) -> None:
    if hint:
        print_status()
        print_status(f"{styled('hint', 'hint:')} {_lines(hint)}")


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
