"""What tables show of results: one row per run, and notes about what the numbers do not say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.serving.bench.document import load
from mmbuild.serving.bench.load import Load
from mmbuild.serving.bench.metrics import PERCENTILES
from mmbuild.serving.bench.records import FAILURES

BETWEEN = " / "
"""Separates the percentiles in a cell."""
PERCENTILE_TITLE = BETWEEN.join(f"p{percent}" for percent in PERCENTILES)
COLUMNS = (
    "load",
    "answered",
    "failed",
    "requests/s",
    "tokens/s",
    "first token, ms",
    "per token, ms",
    "whole answer, ms",
)
"""Titles of a row's cells."""
PERCENTILES_FROM = 5
"""Index of the first cell with percentiles, :data:`PERCENTILE_TITLE`."""

_BUSY, _LATE = 0.8, 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """A run: its cells, under :data:`COLUMNS`, and the name of its result."""

    result: str
    cells: tuple[str, ...]


def row_of(result: str, run: Mapping[str, Any]) -> Row:
    """The row of a run of the result named ``result``."""
    summary = run["summary"]
    return Row(
        result,
        (
            load(run).name,
            str(summary["completed"]),
            str(summary["failed"]),
            f"{summary['requests_per_second']:.2f}",
            f"{summary['tokens_per_second']:.1f}",
            *(_percentiles(summary[name]) for name in ("first_token", "per_token", "whole")),
        ),
    )


def _percentiles(statistics: Mapping[str, float] | None) -> str:
    if statistics is None:
        return "-"
    return BETWEEN.join(milliseconds(statistics[f"p{percent}"]) for percent in PERCENTILES)


def milliseconds(seconds: float) -> str:
    """Milliseconds with one decimal, from 100 on without."""
    value = seconds * 1e3
    return f"{value:.1f}" if abs(value) < 99.95 else f"{value:,.0f}"


def failure_lines(result: Mapping[str, Any]) -> list[str]:
    """One line for each kind of failure of each run."""
    return [
        f"{load(run).name}: {failure['count']} failed: {failure_text(failure)}"
        for run in result["runs"]
        for failure in run["summary"]["failures"]
    ]


def failure_text(failure: Mapping[str, Any]) -> str:
    """Such as ``HTTP 429, rate_limit_exceeded: slow down``."""
    what = FAILURES[failure["kind"]] if failure["status"] is None else f"HTTP {failure['status']}"
    coded = f"{what}, {failure['code']}" if failure["code"] else what
    return f"{coded}: {failure['message']}" if failure["message"] else coded


def notes(result: Mapping[str, Any]) -> list[str]:
    """What is worth knowing about the numbers of a result, one sentence each, with the loads of its runs."""
    found: dict[str, list[str]] = {}
    for run in result["runs"]:
        for note in _notes(result, run):
            found.setdefault(note, []).append(load(run).name)
    shown = [f"{', '.join(names)}: {note}" for note, names in found.items()]
    missing = [Load(**one).name for one in result.get("missing", ())]
    return [*shown, f"{', '.join(missing)}: not measured, the sweep ended early"] if missing else shown


def _notes(result: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    summary, busy = run["summary"], run["client_cpu"]
    if "chunks" in summary["counted"]:
        yield "answers came without usage, so their tokens are chunks of text, which may hold several tokens"
    yield from _unequal(result["workload"], run)
    if busy is not None and busy > _BUSY:
        yield f"the client used {busy:.0%} of a CPU core: it may be slower than the server"
    if result["target"]["kind"] == "server" and summary["late"] > _LATE:
        yield f"a request was sent {milliseconds(summary['late'])} ms late, which counts as latency"
    if result["target"]["kind"] == "server" and run["distinct_questions"] < len(run["requests"]):
        yield (
            f"{len(run['requests'])} requests used {run['distinct_questions']} different questions, which a server's "
            "caches may remember"
        )


def _unequal(workload: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    """Whether answers are shorter or longer than ``--ignore-eos`` asks for."""
    expected = workload["max_tokens"]
    counts = {
        one["tokens"] for one in run["requests"] if one["failure"] is None and one["counted"] != "chunks"
    }
    if workload["ignore_eos"] and counts - {expected}:
        shown = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
        yield f"answers have {shown} tokens instead of {expected}: the target does not follow --ignore-eos"
