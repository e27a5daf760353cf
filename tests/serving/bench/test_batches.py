"""When batches begin, and who is in them, on a clock that only the target and waiting move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.serving.bench.batches import Answered, run
from mmbuild.serving.bench.load import Extent, Load, arrivals

TOKENS = 3


class Target:
    """Takes ``seconds`` for each batch, a third of it per token."""

    def __init__(self, seconds):
        self.time, self.seconds, self.batches = 1000.0, seconds, []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds

    def answer(self, numbers):
        self.batches.append(list(numbers))
        start = self.time
        self.time += self.seconds
        first = start + self.seconds / TOKENS
        return [Answered(first, self.time, TOKENS, 10) for _ in numbers]

    def run(self, load, extent, most=4, seed=0):
        return run(self.answer, load, extent, most=most, seed=seed, now=self.now, sleep=self.sleep)


def test_a_closed_loop_runs_whole_batches():
    target = Target(0.3)
    records = target.run(Load("batch", 2), Extent(5))
    assert target.batches == [[0, 1], [2, 3], [4, 5]]
    assert [record.due for record in records] == pytest.approx([0, 0, 0.3, 0.3, 0.6, 0.6])
    assert [record.first - record.due for record in records] == pytest.approx([0.1] * 6)
    assert records[-1].ended == pytest.approx(0.9)
    assert {(record.tokens, record.counted, record.prompt_tokens) for record in records} == {
        (TOKENS, "engine", 10)
    }


def test_a_closed_loop_ends_by_time():
    assert len(Target(0.3).run(Load("batch", 4), Extent(None, 0.5))) == 8


def test_requests_without_tokens_end_with_their_batch():
    target = Target(0.3)
    target.answer = lambda numbers: target.sleep(0.3) or [Answered(None, None, 0, 10) for _ in numbers]
    (record,) = target.run(Load("batch", 1), Extent(1))
    assert (record.first, record.last, record.tokens) == (None, None, 0)
    assert record.ended == pytest.approx(0.3)


def test_an_idle_engine_starts_when_a_request_arrives():
    target = Target(0.001)
    records = target.run(Load("rate", 1), Extent(5))
    expected = list(arrivals(1, Extent(5), 0))
    assert [record.due for record in records] == expected
    assert [record.sent for record in records] == pytest.approx(expected)
    assert target.batches == [[0], [1], [2], [3], [4]]


@given(st.floats(0.1, 100), st.floats(0.001, 2), st.integers(1, 6), st.integers(1, 60), st.integers(0, 50))
def test_an_open_loop_answers_every_request_once_in_order(rate, seconds, most, count, seed):
    target = Target(seconds)
    records = target.run(Load("rate", rate), Extent(count), most, seed)
    assert [number for batch in target.batches for number in batch] == list(range(count))
    assert all(1 <= len(batch) <= most for batch in target.batches)
    assert [record.due for record in records] == list(arrivals(rate, Extent(count), seed))
    assert all(record.sent >= record.due - 1e-6 for record in records)
    # A request waits only while a batch runs: until the next one begins, or for further batches if it was full.
    starts = sorted({record.sent for record in records})
    for batch, start in zip(target.batches, starts, strict=True):
        waiting = [n for n in range(batch[0], count) if records[n].due <= start]
        assert len(batch) == max(1, min(most, len(waiting)))
