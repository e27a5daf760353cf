"""One command: started, its output passed on line by line, and what is known of its output told."""

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
"""Last lines that a failure shows."""


class CommandError(MmbuildError):
    """A command that failed, or that went on where it should have failed."""


def run_command(
    name: str, launch: Launch, cwd: Path, version: str, tell: Callable[[str], None]
) -> tuple[str, ...]:
    """Run ``launch`` in ``cwd``.

    Args:
        name: What a person calls the command.
        launch: Arguments and environment.
        cwd: Where it runs.
        version: The toolchain's version, for known lines of its output.
        tell: Gets each line of output and errors as it comes, without its end.

    Returns:
        All lines of output and errors.

    Raises:
        CommandError: MM700 it failed for no known reason, or cannot be started; MM670 to MM690 a line of its output
            says why it failed, or that what it made is wrong although it ended with 0.
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
            hint="`mmbuild doctor` looks at the environment",
        ) from error
    lines = tuple(_passed_on(process, tell))
    status = process.wait()
    remarks = scan(lines, version)
    if status != 0:
        raise _failed(name, launch.argv, status, lines, remarks)
    for remark in remarks:
        if remark.severity == "silent":
            raise CommandError(
                f"{name} ended with 0, and what it made is wrong: {remark.finding.message}",
                code=remark.finding.code,
                hint=remark.finding.hint,
            )
    return lines


def _passed_on(process: subprocess.Popen[str], tell: Callable[[str], None]) -> Iterator[str]:
    assert process.stdout is not None
    with process.stdout as output:
        for row in output:
            line = row.rstrip("\n")
            tell(line)
            yield line


def _failed(
    name: str, argv: Sequence[str], status: int, lines: Sequence[str], remarks: Sequence[LogFinding]
) -> CommandError:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    # The first cause that a line names; what is said after it mostly follows from it.
    for remark in sorted(remarks, key=lambda item: item.severity != "fatal"):
        finding = remark.finding
        return CommandError(f"{name} {how}: {finding.message}", code=finding.code, hint=finding.hint)
    last = deque((line for line in lines if line.strip()), maxlen=_KEPT)
    shown = "\n".join(f"  | {line}" for line in last)
    return CommandError(
        f"{name} {how}: `{shlex.join(argv)}`" + (f"\n{shown}" if shown else ""),
        code="MM700",
        hint="The log has all of its output; `mmbuild script` writes the command for a try by hand",
    )
