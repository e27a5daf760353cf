"""Rate of some work and the time it has left, from the amounts that were reported and when.

The rate is work over time, and older reports count less and less. For work that reports often it covers about 15
seconds; for work that reports rarely, such as one layer a minute, about four reports. Between two reports the work is
assumed to continue at that rate, but by no more than was done between the last two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mmbuild.base.progress import Amount

_MEMORY_SECONDS = 15.0
_MEMORY_REPORTS = 4.0
_RATE_SECONDS = 1.0
"""Time that must have been observed before there is a rate."""

_LEFT_SECONDS = 2.0
"""Time that must have been observed before there is a time left."""

_LATE_SECONDS = 5.0
_LATE_REPORTS = 3.0
"""A report that is later than both has stalled: how long the work still takes is unknown then."""

_LONGEST_SECONDS = 1e9
"""More is no prediction."""

_ALMOST = 0.9
"""The most of a step between reports that counts as done before it is reported."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What has been observed of some work.

    Attributes:
        amount: The last reported amount.
        at: When it was reported, seconds.
        work: Work so far, older parts reduced, in the amount's unit.
        time: Seconds for it, reduced in the same way.
        step: Work between the last reports.
        gap: Seconds between the last reports.
    """

    amount: Amount
    at: float
    work: float = 0.0
    time: float = 0.0
    step: float = 0.0
    gap: float = 0.0


def observe(pace: Pace | None, amount: Amount, at: float) -> Pace:
    """``pace`` after ``amount`` was reported at ``at``; other work than before starts anew."""
    if pace is None or not _continues(pace.amount, amount):
        return Pace(amount, at)
    work = (amount.done - amount.skipped) - (pace.amount.done - pace.amount.skipped)
    seconds = at - pace.at
    if work <= 0:
        # What was skipped took its own time; a repeated amount is no new observation.
        return replace(pace, amount=amount, at=at if amount.skipped > pace.amount.skipped else pace.at)
    if seconds <= 0:
        return replace(pace, amount=amount, work=pace.work + work)
    kept = math.exp(-seconds / max(_MEMORY_SECONDS, _MEMORY_REPORTS * seconds))
    return Pace(
        amount,
        at,
        work=pace.work * kept + work,
        time=pace.time * kept + seconds,
        step=max(work, kept * pace.step),
        gap=max(seconds, kept * pace.gap),
    )


def rate(pace: Pace, now: float) -> float | None:
    """Work per second at ``now``; None as long as too little was observed."""
    waited = max(0.0, now - pace.at)
    if pace.work <= 0 or pace.time + waited < _RATE_SECONDS or pace.time <= 0:
        return None
    return (pace.work + _expected(pace, waited)) / (pace.time + waited) or None


def seconds_left(pace: Pace, now: float) -> float | None:
    """Seconds until the total is reached; None if that is unknown or the work has stalled."""
    speed, waited = rate(pace, now), max(0.0, now - pace.at)
    total = pace.amount.total
    if speed is None or total is None or pace.amount.done >= total:
        return None
    if pace.time + waited < _LEFT_SECONDS or waited > max(_LATE_SECONDS, _LATE_REPORTS * pace.gap):
        return None
    remaining = total - pace.amount.done
    left = (remaining - min(_expected(pace, waited), _ALMOST * remaining)) / speed
    return left if left < _LONGEST_SECONDS else None


def _expected(pace: Pace, waited: float) -> float:
    """Work since the last report, if it went on as before."""
    return min(pace.work / pace.time * waited, _ALMOST * pace.step)


def _continues(before: Amount, amount: Amount) -> bool:
    return (before.unit, before.total) == (amount.unit, amount.total) and amount.done >= before.done
