"""Measures an OpenAI-compatible server: closed loops of several clients, and open loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count

from mmbuild.base.status_line import working
from mmbuild.serving.bench.client import ask, body_of
from mmbuild.serving.bench.endpoint import Server
from mmbuild.serving.bench.load import Extent, Load, arrivals
from mmbuild.serving.bench.measured import Run
from mmbuild.serving.bench.records import Record, clock
from mmbuild.serving.bench.workload import Question, Workload, next_questions, questions

Ask = Callable[[int, float], Awaitable[Record]]
"""``ask(number, due)``: sends request ``number``, which was due then."""

_PAUSE = 0.1
"""Seconds that a client waits after a failure: a server that is down or overloaded refuses thousands per second."""


def measure(
    server: Server, loads: Sequence[Load], extent: Extent, workload: Workload, report: Callable[[Load], None]
) -> Iterator[Run]:
    """Yield each run as it ends; ``server`` has a model."""
    source = questions(workload)
    for load in loads:
        report(load)
        warmup = load.at_once * extent.warmup
        expected = None if extent.requests is None else extent.requests + warmup
        with working(f"measuring {load.name}"):
            run = asyncio.run(_run(server, load, extent, workload, next_questions(source, expected)))
        yield run


async def _run(
    server: Server, load: Load, extent: Extent, workload: Workload, asked: Sequence[Question]
) -> Run:
    encoded = {question: body_of(question, workload, server.model or "") for question in set(asked)}
    bodies = [encoded[question] for question in asked]
    warmup = load.at_once * extent.warmup
    async with server.client() as http:

        def asking(first: int) -> tuple[Ask, Callable[[], float]]:
            start = clock()

            def now() -> float:
                return clock() - start

            def send(number: int, due: float) -> Awaitable[Record]:
                body = bodies[(first + number) % len(bodies)]
                return ask(http, body, due, server.timeout, now)

            return send, now

        await closed_loop(*asking(0), load.at_once, Extent(warmup))
        used = time.process_time()
        send, now = asking(warmup)
        if load.kind == "rate":
            records = await open_loop(send, now, arrivals(load.value, extent, workload.seed))
        else:
            records = await closed_loop(send, now, load.at_once, extent)
        busy = (time.process_time() - used) / max(now(), 1e-9)
    return Run(load, tuple(records), len(encoded), min(busy, 1.0))


async def closed_loop(ask: Ask, now: Callable[[], float], clients: int, extent: Extent) -> list[Record]:
    """``clients`` clients send the next request when they have the answer to their last one."""
    numbers, records = count(), list[Record]()

    async def client() -> None:
        while extent.goes_on(started := next(numbers), due := now()):
            record = await ask(started, due)
            records.append(record)
            if record.failure is not None:
                await asyncio.sleep(_PAUSE)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return records


async def open_loop(ask: Ask, now: Callable[[], float], moments: Iterator[float]) -> list[Record]:
    """Send a request at each of ``moments``, whether or not earlier ones are answered."""
    tasks: list[asyncio.Task[Record]] = []

    async def one(number: int, due: float) -> Record:
        return await ask(number, due)

    async with asyncio.TaskGroup() as group:
        for number, due in enumerate(moments):
            await asyncio.sleep(max(0.0, due - now()))
            tasks.append(group.create_task(one(number, due)))
    return [task.result() for task in tasks]
