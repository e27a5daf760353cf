"""Known lines in the logs of TensorRT-LLM's commands, and what they mean.

Some end a failure whose cause is elsewhere; others come from a command that continues and exits with 0. The patterns
are in ``log_patterns.yaml``, their explanations in ``mmbuild/base/codes/log.yaml``.
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
        code: Code of its entry in ``mmbuild/base/codes/log.yaml``.
        pattern: Regular expression searched for in each line.
        severity: ``fatal``: the command fails. ``silent``: it continues, but its result is wrong.
        toolchains: Versions to which the pattern applies.
    """

    code: LogCode
    pattern: str
    severity: Severity
    toolchains: tuple[str, ...] = SUPPORTED


@dataclass(frozen=True, slots=True)
class LogFinding:
    """A known line in a log.

    Attributes:
        line: Line number of its first occurrence, from 1.
        severity: As in :class:`KnownLine`.
        finding: The error to report.
    """

    line: int
    severity: Severity
    finding: ProductError


@cache
def known_lines() -> tuple[KnownLine, ...]:
    """All rows of ``log_patterns.yaml``."""
    return TypeAdapter(tuple[KnownLine, ...]).validate_python(table("log_patterns.yaml"))


def scan(lines: Iterable[str], version: str) -> tuple[LogFinding, ...]:
    """The known lines in a command's log, one finding per code, in order of appearance.

    Args:
        lines: Lines of stdout and stderr, in order.
        version: The toolchain's version.
    """
    patterns = [(re.compile(row.pattern), row) for row in known_lines() if version in row.toolchains]
    findings: dict[LogCode, LogFinding] = {}
    for number, line in enumerate(lines, start=1):
        for pattern, row in patterns:
            if row.code not in findings and pattern.search(line.strip()):
                findings[row.code] = _finding(number, line, row)
    return tuple(findings.values())


def _finding(number: int, line: str, row: KnownLine) -> LogFinding:
    entry = codes()[row.code]
    shown = line.strip()[:_LONGEST_SHOWN]
    message = f"line {number} of the log, `{shown}`: {entry.cause.removesuffix('.')}"
    return LogFinding(
        number, row.severity, ProductError(message, code=row.code, hint=entry.cure.removesuffix("."))
    )
