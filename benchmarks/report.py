"""Rows of results, and how things are timed."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One number.

    Attributes:
        what: What was measured.
        value: The number with its unit.
        beside: What it is compared with, measured in the same run.
        bound: The bound of the design, where there is one.
    """

    what: str
    value: str
    beside: str = ""
    bound: str = ""


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| what | measured | beside it, same run | bound |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.value} | {row.beside} | {row.bound} |" for row in rows]
    return "\n".join(lines)


def machine() -> str:
    """The machine in one line."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"


def command_seconds(
    command: Sequence[str],
    *,
    repeat: int = 7,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Median wall time of a command, after one run that does not count.

    Raises:
        RuntimeError: the command failed.
    """
    times = []
    for attempt in range(repeat + 1):
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
        if attempt:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.2f} ms"
