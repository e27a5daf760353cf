"""Describes failed actions for the user."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from mmbuild.core.execution.job import Failure

_TAIL_LINES = 12
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Failed:
    """A failed action.

    Attributes:
        label: The action.
        message: What happened, one line.
        code: Stable code.
        hint: What to do.
        causes: Messages of the causes, nearest first.
        log: Path of the log.
        tail: Last lines of the log, if the message alone does not explain the failure.
        traceback: For ``--debug``.
        aside: Directories with the engines that the action rejected.
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
    """Describe a failure for the user.

    Args:
        label: The action.
        step: Its step.
        failure: What the worker reported; None if it died first.
        status: The worker's exit status, negative for a signal.
        log: Path of the action's log.
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
            "read the log; `--debug` shows the traceback",
            failure.causes,
            str(log),
            traceback=failure.traceback,
        )
    message, hint = _death(status)
    return Failed(label, f"the worker of `{label}` {message}", "MM311", hint, (), str(log), _log_tail(log))


def _log_tail(log: Path) -> tuple[str, ...]:
    """Return the last lines of a log."""
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
        return f"died of {name}", "this is a crash in native code; the log may say more"
    return f"exited with status {status}", "the log may say more"
