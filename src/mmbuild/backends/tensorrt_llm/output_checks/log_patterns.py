"""Known lines in the output of TensorRT-LLM's commands, and what they mean.

Some are the last line of a failure whose cause is elsewhere; others are said by a command that goes on and ends with
0. The lines are data in ``log_patterns.yaml``, their explanations in ``mmbuild/base/codes/log.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import TypeAdapter

from mmbuild.backends.tensorrt_llm.output_checks.files import ProductError
from mmbuild.backends.tensorrt_llm.output_checks.model import Entry, table
from mmbuild.base.codes import codes
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

Severity = Literal["fatal", "silent"]
LogCode = Literal[
    "MM670", "MM671", "MM672", "MM673", "MM674", "MM675", "MM676", "MM677", "MM678", "MM679",
    "MM680", "MM681", "MM682", "MM683", "MM684", "MM685", "MM686", "MM687", "MM688", "MM689", "MM690",
]  # fmt: skip

_LONGEST_SHOWN = 300


class KnownLine(Entry):
    """One row of ``log_patterns.yaml``.

    Attributes:
        code: What it is called in ``mmbuild/base/codes/log.yaml``.
        pattern: Regular expression that is searched in each line.
        severity: ``fatal``: the command fails there. ``silent``: it goes on, and what it makes is wrong.
        toolchains: Versions in which the line means that.
    """

    code: LogCode
    pattern: str
    severity: Severity
    toolchains: tuple[str, ...] = SUPPORTED


@dataclass(frozen=True, slots=True)
class LogFinding:
    """A known line that was found.

    Attributes:
        line: Its number, from 1; the first where it is there several times.
        severity: As in :class:`KnownLine`.
        finding: What is told.
    """

    line: int
    severity: Severity
    finding: ProductError


@cache
def known_lines() -> tuple[KnownLine, ...]:
    """All rows."""
    return TypeAdapter(tuple[KnownLine, ...]).validate_python(table("log_patterns.yaml"))


def scan(lines: Iterable[str], version: str) -> tuple[LogFinding, ...]:
    """The known lines in a command's output, each code once, in the order in which they came.

    Args:
        lines: Output and errors of the command, as they came.
        version: The toolchain's version.
    """
    waiting = [(re.compile(row.pattern), row) for row in known_lines() if version in row.toolchains]
    found: dict[LogCode, LogFinding] = {}
    for number, line in enumerate(lines, start=1):
        for pattern, row in waiting:
            if row.code not in found and pattern.search(line.strip()):
                found[row.code] = _remark(number, line, row)
    return tuple(found.values())


def _remark(number: int, line: str, row: KnownLine) -> LogFinding:
    entry = codes()[row.code]
    shown = line.strip()[:_LONGEST_SHOWN]
    message = f"line {number} of the log, `{shown}`: {entry.cause.removesuffix('.')}"
    return LogFinding(
        number, row.severity, ProductError(message, code=row.code, hint=entry.cure.removesuffix("."))
    )
