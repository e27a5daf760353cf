"""The client against a small server: complete answers, faults, loops."""

import asyncio
import base64
import time

import pytest

from mmbuild.serving.bench.endpoint import Server, base_url
from mmbuild.serving.bench.load import Extent, Load, arrivals
from mmbuild.serving.bench.metrics import first_token, per_token, summary
from mmbuild.serving.bench.server import closed_loop, measure, open_loop
from mmbuild.serving.bench.workload import Workload
from support.measured import answered
from support.servers.openai import chat_server

WORKLOAD = Workload((), 16, ("how many ?",), 4, False, 0)


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


def runs(server, loads, extent, workload=WORKLOAD, **more):
    target = Server(base_url(server.url), "shapes", **more)
    return list(measure(target, loads, extent, workload, lambda _: None))


def one(server, reply, **more):
    """The record of a single request with ``reply``."""
    server.reply = lambda _: reply
    (run,) = runs(server, [Load("clients", 1)], Extent(1, warmup=0), **more)
    (record,) = run.records
    return record


def test_a_complete_answer(server):
    server.pause = 0.02
    record = one(server, "ok")
    assert record.failure is None
    assert (record.tokens, record.counted, record.prompt_tokens) == (4, "usage", 20)
    assert 0.04 <= first_token(record) < 0.5
    assert 0.015 <= per_token(record) < 0.2
    assert record.due <= record.sent < record.first < record.last <= record.ended


def test_the_request(server):
    one(server, "ok", workload=Workload((), 16, ("how many ?",), 4, True, 0))
    (body,) = server.bodies
    (message,) = body.pop("messages")
    assert body == {
        "model": "shapes",
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    picture, text = message["content"]
    assert text == {"type": "text", "text": "how many ?"}
    start, _, data = picture["image_url"]["url"].partition(",")
    assert start == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")


def test_a_plain_request_has_no_extensions_and_no_empty_prompt(server):
    one(server, "ok", workload=Workload((), 16, (), 4, False, 0))
    (body,) = server.bodies
    assert "ignore_eos" not in body
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url"]


def test_chunks_count_without_usage(server):
    record = one(server, "no usage")
    assert (record.tokens, record.counted, record.failure) == (4, "chunks", None)


@pytest.mark.parametrize(
    ("reply", "kind", "status", "code", "words"),
    [
        ("429", "http", 429, "rate_limit_exceeded", "slow down"),
        ("500", "http", 500, None, "<html>Internal"),
        ("cut", "broken", None, None, "[DONE]"),
        ("broken", "broken", None, None, ""),
        ("gone", "broken", None, None, ""),
        ("error event", "stream", None, "500", "out of memory"),
        ("garbage", "malformed", None, None, "not JSON"),
        ("endless event", "malformed", None, None, "too long"),
        ("plain", "broken", None, None, "[DONE]"),
    ],
)
def test_faults(server, reply, kind, status, code, words):
    failure = one(server, reply).failure
    assert (failure.kind, failure.status, failure.code) == (kind, status, code)
    assert words in failure.message


def test_silence_ends_after_the_timeout(server):
    start = time.perf_counter()
    record = one(server, "silent", timeout=0.3)
    assert time.perf_counter() - start < 5
    assert record.failure.kind == "timeout"
    assert 0.3 <= record.ended < 2


def test_an_answer_is_complete_even_if_the_response_never_ends(server):
    record = one(server, "open end", timeout=30)
    assert (record.failure, record.tokens) == (None, 4)
    assert record.ended < 1


def test_a_server_that_is_not_there():
    target = Server("http://127.0.0.1:1/v1", "shapes")
    (run,) = measure(target, [Load("clients", 2)], Extent(4, warmup=0), WORKLOAD, lambda _: None)
    assert {record.failure.kind for record in run.records} == {"connect"}
    assert run.failed


def test_failures_do_not_hide_the_others(server):
    server.reply = lambda number: "429" if number % 2 else "ok"
    (run,) = runs(server, [Load("clients", 1)], Extent(6, warmup=0))
    found = summary(run.records)
    assert (found["completed"], found["failed"]) == (3, 3)
    assert not run.failed


def test_clients_ask_at_once_after_a_warm_up(server):
    server.pause = 0.005
    alone, together = runs(server, [Load("clients", 1), Load("clients", 3)], Extent(6))
    assert server.most == 3
    assert len(server.bodies) == 1 + 6 + 3 + 6
    assert len(alone.records) == len(together.records) == 6
    assert 0 <= together.client_cpu <= 1
    pictures = [str(body["messages"]) for body in server.bodies]
    assert len(set(pictures)) == len(pictures)


def test_arrivals_do_not_wait_for_answers(server):
    server.pause = 0.02
    (run,) = runs(server, [Load("rate", 200)], Extent(10, warmup=0))
    assert [record.due for record in run.records] == list(arrivals(200, Extent(10), 0))
    assert all(record.sent >= record.due for record in run.records)
    assert server.most > 3


def test_a_run_ends_by_time(server):
    server.pause = 0.01
    (run,) = runs(server, [Load("clients", 2)], Extent(None, 0.3, warmup=0))
    assert run.records
    assert all(record.due < 0.3 and record.failure is None for record in run.records)


class Clock:
    """A clock that only waiting moves."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time


@pytest.mark.parametrize("clients", [1, 3])
def test_a_closed_loop_numbers_each_request_once(clients):
    clock, numbers, open_now, most = Clock(), [], [0], [0]

    async def ask(number, due):
        numbers.append(number)
        open_now[0] += 1
        most[0] = max(most[0], open_now[0])
        await asyncio.sleep(0)
        clock.time += 1
        open_now[0] -= 1
        return answered(due)

    records = asyncio.run(closed_loop(ask, clock.now, clients, Extent(7)))
    assert sorted(numbers) == list(range(7))
    assert len(records) == 7
    assert most[0] == clients


def test_an_open_loop_keeps_the_order_of_arrivals():
    async def ask(number, due):
        await asyncio.sleep(0.02 if number == 0 else 0)
        return answered(due)

    start = time.perf_counter()
    records = asyncio.run(open_loop(ask, lambda: time.perf_counter() - start, iter([0.001, 0.002, 0.003])))
    assert [record.due for record in records] == [0.001, 0.002, 0.003]
