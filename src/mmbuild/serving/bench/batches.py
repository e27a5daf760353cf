"""Runs of a target that answers one batch at a time: when each batch begins, and who is in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from mmbuild.serving.bench.load import Extent, Load, arrivals
from mmbuild.serving.bench.records import Record, clock


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer of a batch: moments of its first and last token on the run's clock, None without tokens."""

    first: float | None
    last: float | None
    tokens: int
    prompt_tokens: int


Answer = Callable[[Sequence[int]], Sequence[Answered]]
"""Answers the requests with these numbers as one batch, and returns when all are complete."""


def run(
    answer: Answer,
    load: Load,
    extent: Extent,
    *,
    most: int,
    seed: int,
    now: Callable[[], float] = clock,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Record]:
    """Measure one load.

    A closed loop starts a whole batch when the last one is complete. In an open loop, requests that arrived during a
    batch form the next one.

    Args:
        answer: The target; times are those of ``now``.
        load: ``batch`` or ``rate``.
        extent: Its requests are rounded up to whole batches.
        most: Largest batch of an open loop.
        seed: For the arrivals of an open loop.
        now: The clock.
        sleep: Waits for some seconds on that clock.
    """
    start = now()
    if load.kind == "rate":
        batches = _open(arrivals(load.value, extent, seed), most, lambda: now() - start, sleep)
    else:
        batches = _closed(load.at_once, extent, lambda: now() - start)
    records: list[Record] = []
    for dues in batches:
        sent = now() - start
        answers = answer(range(len(records), len(records) + len(dues)))
        ended = now() - start
        records += [_record(due, sent, ended, start, one) for due, one in zip(dues, answers, strict=True)]
    return records


def _closed(size: int, extent: Extent, now: Callable[[], float]) -> Iterator[list[float]]:
    """Arrivals of each batch: all at its beginning."""
    for started in count(step=size):
        if not extent.goes_on(started, now()):
            return
        yield [now()] * size


def _open(
    moments: Iterator[float], most: int, now: Callable[[], float], sleep: Callable[[float], object]
) -> Iterator[list[float]]:
    """Arrivals of each batch: those until its beginning that were in no earlier one, at most ``most``."""
    upcoming = next(moments, None)
    waiting: list[float] = []
    while upcoming is not None or waiting:
        if upcoming is not None and not waiting and upcoming > now():
            sleep(upcoming - now())
        while upcoming is not None and (upcoming <= now() or not waiting):
            waiting.append(upcoming)
            upcoming = next(moments, None)
        yield waiting[:most]
        waiting = waiting[most:]


def _record(due: float, sent: float, ended: float, start: float, one: Answered) -> Record:
    first = None if one.first is None else one.first - start
    last = None if one.last is None else one.last - start
    # Its own end, though the batch goes on: a server could send the answer then.
    end = ended if last is None else last
    return Record(due, sent, first, last, end, one.tokens, "engine", one.prompt_tokens)
