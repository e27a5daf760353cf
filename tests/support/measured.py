"""Results of bench, as a sweep would leave them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mmbuild.serving.bench.document import document
from mmbuild.serving.bench.load import Extent, Load
from mmbuild.serving.bench.measured import Run
from mmbuild.serving.bench.records import Failure, Record
from mmbuild.serving.bench.workload import Workload

WORKLOAD = Workload((), 64, ("how many ?",), 4, True, 0)
SERVER = {"kind": "server", "name": "shapes", "url": "http://localhost:8000/v1", "model": "shapes"}
BUSY = Failure("http", 429, "rate_limit_exceeded", "slow down")


def answered(
    due: float = 0.0, *, wait: float = 0.1, step: float = 0.01, tokens: int = 4, **more: Any
) -> Record:
    """A complete answer whose first token arrives after ``wait`` seconds, the others every ``step``."""
    first = due + wait
    last = first + step * (tokens - 1)
    return Record(
        **{
            "due": due,
            "sent": due,
            "first": first,
            "last": last,
            "ended": last,
            "tokens": tokens,
            "counted": "usage",
            "prompt_tokens": 20,
            **more,
        }
    )


def failed(failure: Failure = BUSY, due: float = 0.0) -> Record:
    """A request that failed after 0.05 s."""
    return Record(due, due, None, None, due + 0.05, 0, "chunks", None, failure)


def run(kind: str, value: float, records: Sequence[Record], **more: Any) -> Run:
    """A run."""
    return Run(
        Load(kind, value), tuple(records), **{"distinct_questions": len(records), "client_cpu": 0.1, **more}
    )


def result(
    *runs: Run,
    target: dict[str, Any] = SERVER,
    workload: Workload = WORKLOAD,
    missing: Sequence[Load] = (),
) -> dict[str, Any]:
    """A document; without ``runs``, of two closed loops and an open one."""
    chosen = runs or (
        run("clients", 1, [answered(), answered(0.13)]),
        run("clients", 2, [answered(wait=0.15), answered(wait=0.17), failed()]),
        run("rate", 4, [answered(0.2), answered(0.5, wait=0.3)]),
    )
    when = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
    return document(target, workload, Extent(2), chosen, when, missing)
