"""Start-up: `mmbuild --version` and `--help` beside `python -c pass` (median of 15 runs each)."""

from __future__ import annotations

import sys

from benchmarks.project import tool
from benchmarks.report import Row, command_seconds, milliseconds


def measure() -> list[Row]:
    """One row for each command."""
    bare = command_seconds([sys.executable, "-c", "pass"], repeat=15)
    rows = []
    for argument in ("--version", "--help"):
        seconds = command_seconds(tool(argument), repeat=15)
        rows.append(
            Row(
                f"`mmbuild {argument}`",
                milliseconds(seconds),
                f"python -c pass {milliseconds(bare)}: + {milliseconds(seconds - bare)}",
                "+ 80 ms (stretch + 40 ms)",
            )
        )
    return rows
