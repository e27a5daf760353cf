"""Runs one command: passes its output on line by line, and explains known lines in it."""

from __future__ import annotations

import shlex
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmbuild.backends.environments.launch import Launch
from mmbuild.backends.tensorrt_llm.output_checks.log_patterns import LogFinding, scan
from mmbuild.base.errors import MmbuildError

_KEPT = 12
"""Number of last output lines in an error message."""


class CommandError(MmbuildError):
    """A command that failed, or that succeeded but produced a wrong result."""


def run_command(
    name: str, launch: Launch, cwd: Path, version: str, on_line: Callable[[str], None]
) -> tuple[str, ...]:
    """Run ``launch`` in ``cwd``.

    Args:
        name: Name of the command, for messages.
        launch: Arguments and environment.
        cwd: Working directory.
        version: The toolchain's version, which selects the known lines.
        on_line: Called with each line of stdout and stderr, without its line end.

    Returns:
        All lines of stdout and stderr.

    Raises:
        CommandError: MM700, it failed for an unknown reason, or cannot be started; MM670 to MM690, a known line of
            its output explains the failure, or shows that its result is wrong although it exited with 0.
    """
    try:
        process = subprocess.Popen(
            launch.argv,
            cwd=cwd,
            env=dict(launch.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise CommandError(
            f"`{launch.argv[0]}` of {name} cannot be started: {error.strerror}",
            code="MM700",
            hint="`mmbuild doctor` checks the environment",
        ) from error
    lines = tuple(_output_lines(process, on_line))
    status = process.wait()
    remarks = scan(lines, version)
    if status != 0:
        raise _failed(name, launch.argv, status, lines, remarks)
    for remark in remarks:
        if remark.severity == "silent":
            raise CommandError(
                f"{name} exited with status 0, but its result is wrong: {remark.finding.message}",
                code=remark.finding.code,
                hint=remark.finding.hint,
            )
    return lines


def _output_lines(process: subprocess.Popen[str], on_line: Callable[[str], None]) -> Iterator[str]:
    assert process.stdout is not None
    with process.stdout as output:
        for row in output:
            line = row.rstrip("\n")
            on_line(line)
            yield line


def _failed(
    name: str, argv: Sequence[str], status: int, lines: Sequence[str], remarks: Sequence[LogFinding]
) -> CommandError:
    outcome = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
    # Report the first fatal line: later ones usually follow from it.
    for remark in sorted(remarks, key=lambda item: item.severity != "fatal"):
        finding = remark.finding
        return CommandError(f"{name} {outcome}: {finding.message}", code=finding.code, hint=finding.hint)
    last = deque((line for line in lines if line.strip()), maxlen=_KEPT)
    shown = "\n".join(f"  | {line}" for line in last)
    return CommandError(
        f"{name} {outcome}: `{shlex.join(argv)}`" + (f"\n{shown}" if shown else ""),
        code="MM700",
        hint="the log has its complete output; `mmbuild script` writes the command to run it by hand",
    )
