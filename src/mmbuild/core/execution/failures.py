"""Why an action failed, for a person."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from mmbuild.core.execution.job import Failure

_TAIL_LINES = 12
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Failed:
    """One failed action.

    Attributes:
        label: The action.
        message: What happened, one line.
        code: Stable code.
        hint: What to do.
        causes: What it came from, nearest first.
        log: Path of the log.
        tail: Last lines of the log, where the message alone does not tell enough.
        traceback: For ``--debug``.
        aside: Directories with the engines that the action refused.
    """

    label: str
    message: str
    code: str
    hint: str | None
    causes: tuple[str, ...]
    log: str
    tail: tuple[str, ...] = ()
    traceback: str = ""
    aside: tuple[str, ...] = ()


def explain_failure(label: str, step: str, failure: Failure | None, status: int, log: Path) -> Failed:
    """Put ``failure``, what the worker said of it (None: it could not), into words.

    ``status`` is the worker's exit status, negative for a signal.
    """
    if failure is not None and failure.code is not None:
        return Failed(
            label,
            f"`{label}`: {failure.message}",
            failure.code,
            failure.hint,
            failure.causes,
            str(log),
            traceback=failure.traceback,
        )
    if failure is not None:
        return Failed(
            label,
            f"step `{step}` of `{label}` failed: {failure.message}",
            "MM310",
            "the log tells more; `--debug` shows the traceback",
            failure.causes,
            str(log),
            traceback=failure.traceback,
        )
    message, hint = _death(status)
    return Failed(label, f"the worker of `{label}` {message}", "MM311", hint, (), str(log), log_tail(log))


def log_tail(log: Path) -> tuple[str, ...]:
    """The last lines of a log."""
    try:
        with open(log, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-_TAIL_LINES:])


def _death(status: int) -> tuple[str, str]:
    if status == -signal.SIGKILL:
        return (
            "was killed (SIGKILL), most likely because memory ran out",
            "use fewer `--jobs` or a machine with more memory; see `dmesg`; finished actions are kept",
        )
    if status < 0:
        name = signal.Signals(-status).name
        return f"died of {name}", "this is a crash in native code; the log may tell more"
    return f"ended with status {status}", "the log may tell more"
