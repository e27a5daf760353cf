"""What follows from records: times per request, percentiles and rates per run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmbuild.serving.bench.records import Failure, Record

PERCENTILES = (50, 90, 99)


def first_token(record: Record) -> float | None:
    """Seconds until the first token, waiting included."""
    return None if record.first is None else record.first - record.due


def per_token(record: Record) -> float | None:
    """Seconds per token after the first: ``(last - first) / (tokens - 1)``; None with fewer than two tokens."""
    if record.first is None or record.last is None or record.tokens < 2:
        return None
    return (record.last - record.first) / (record.tokens - 1)


def whole(record: Record) -> float:
    """Seconds until the answer is complete, waiting included."""
    return record.ended - record.due


TIMES: Mapping[str, Callable[[Record], float | None]] = {
    "first_token": first_token,
    "per_token": per_token,
    "whole": whole,
}
"""Name in a result -> seconds of one request."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of at least one value, interpolated linearly between the two nearest ranks, as numpy does."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    below, above = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    return below + (above - below) * (rank - low)


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """The numbers of a run.

    Returns:
        ``seconds`` from the start to the last end; ``completed``, ``failed``, ``tokens``; ``requests_per_second`` and
        ``tokens_per_second`` over that time, of complete answers; ``counted``, the sources of token counts; ``late``,
        the longest time in seconds between a request's arrival and its sending; for each of :data:`TIMES` the
        ``mean``, ``p50``, ``p90`` and ``p99`` in seconds, or None if no request has it; ``failures`` with ``kind``,
        ``status``, ``code``, ``count`` and one ``message``, most frequent first.
    """
    complete = [record for record in records if record.failure is None]
    seconds = max((record.ended for record in records), default=0.0)
    tokens = sum(record.tokens for record in complete)
    return {
        "seconds": seconds,
        "completed": len(complete),
        "failed": len(records) - len(complete),
        "tokens": tokens,
        "requests_per_second": len(complete) / seconds if seconds else 0.0,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "counted": sorted({record.counted for record in complete}),
        "late": max((record.sent - record.due for record in records), default=0.0),
        **{name: distribution([time(record) for record in complete]) for name, time in TIMES.items()},
        "failures": failures([record.failure for record in records if record.failure is not None]),
    }


def distribution(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and percentiles of the values that exist; None if none does."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "mean": math.fsum(known) / len(known),
        **{f"p{percent}": percentile(known, percent) for percent in PERCENTILES},
    }


def failures(found: Sequence[Failure]) -> list[dict[str, Any]]:
    """Counts by kind, status and code, most frequent first, each with the message of its first failure."""
    counts = Counter((failure.kind, failure.status, failure.code) for failure in found)
    examples: dict[tuple[str, int | None, str | None], str] = {}
    for failure in found:
        examples.setdefault((failure.kind, failure.status, failure.code), failure.message)
    return [
        {
            "kind": kind,
            "status": status,
            "code": code,
            "count": count,
            "message": examples[kind, status, code],
        }
        for (kind, status, code), count in counts.most_common()
    ]
