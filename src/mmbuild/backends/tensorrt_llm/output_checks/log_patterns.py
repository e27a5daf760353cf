"""Known lines in the logs of TensorRT-LLM's commands, and what they mean.

Some end a failure whose cause is elsewhere; others come from a command that continues and exits with 0. The patterns
are in ``logs.yaml`` of a version, their explanations in ``mmbuild/base/codes/log.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from mmbuild.backends.tensorrt_llm.output_checks.files import ProductError
from mmbuild.backends.tensorrt_llm.toolchains.load import version_facts
from mmbuild.backends.tensorrt_llm.toolchains.model import Part
from mmbuild.base.codes import codes

Severity = Literal["fatal", "silent"]
LogCode = Literal[
    "MM670", "MM671", "MM672", "MM673", "MM674", "MM675", "MM676", "MM677", "MM678", "MM679",
    "MM680", "MM681", "MM682", "MM683", "MM684", "MM685", "MM686", "MM687", "MM688", "MM689", "MM690",
]  # fmt: skip

_LONGEST_SHOWN = 300


class KnownLine(Part):
    """One entry of ``logs.yaml``.

    Attributes:
        code: Code of its entry in ``mmbuild/base/codes/log.yaml``.
        pattern: Regular expression searched for in each line.
        severity: ``fatal``: the command fails. ``silent``: it continues, but its result is wrong.
    """

    code: LogCode
    pattern: str
    severity: Severity


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
def known_lines(version: str) -> tuple[KnownLine, ...]:
    """The known lines in logs of ``version``."""
    rows = version_facts(version, "logs").items()
    return tuple(KnownLine.model_validate({"code": code, **row}) for code, row in rows)


def scan(lines: Iterable[str], version: str) -> tuple[LogFinding, ...]:
    """The known lines in a command's log, one finding per code, in order of appearance.

    Args:
        lines: Lines of stdout and stderr, in order.
        version: The toolchain's version.
    """
    patterns = [(re.compile(row.pattern), row) for row in known_lines(version)]
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
