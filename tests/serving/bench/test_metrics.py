"""Times per request and numbers per run."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.serving.bench.metrics import distribution, first_token, per_token, percentile, summary, whole
from mmbuild.serving.bench.records import Failure
from support.measured import BUSY, answered, failed

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(VALUES, st.floats(0, 100))
def test_percentiles_are_those_of_numpy(values, percent):
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), abs=1e-6)


@given(VALUES)
def test_percentiles_are_ordered_and_among_the_values(values):
    found = distribution(values)
    assert min(values) <= found["p50"] <= found["p90"] <= found["p99"] <= max(values)
    assert found["mean"] == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_distribution_skips_what_is_unknown():
    assert distribution([None, 2.0, None]) == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p99": 2.0}
    assert distribution([None]) is None
    assert distribution([]) is None


@given(st.floats(0, 100), st.floats(0.001, 10), st.floats(0, 1), st.integers(1, 500))
def test_times_of_a_request(due, wait, step, tokens):
    record = answered(due, wait=wait, step=step, tokens=tokens)
    assert first_token(record) == pytest.approx(wait, abs=1e-9)
    assert whole(record) == pytest.approx(wait + step * (tokens - 1), abs=1e-9)
    if tokens == 1:
        assert per_token(record) is None
    else:
        assert per_token(record) == pytest.approx(step, abs=1e-9)


def test_waiting_counts_as_latency():
    """A request that was sent 2 s after it was due waited 2 s more for its first token."""
    record = answered(1.0, wait=2.5, sent=3.0)
    assert first_token(record) == pytest.approx(2.5)
    assert summary([record])["late"] == pytest.approx(2.0)


def test_summary_of_a_run():
    records = [answered(0.0, wait=0.4, tokens=4, step=0.2), answered(1.0, wait=0.4, tokens=6, step=0.12)]
    found = summary([*records, failed(due=1.9)])
    assert found["seconds"] == pytest.approx(2.0)
    assert (found["completed"], found["failed"], found["tokens"]) == (2, 1, 10)
    assert found["requests_per_second"] == pytest.approx(1.0)
    assert found["tokens_per_second"] == pytest.approx(5.0)
    assert found["per_token"]["mean"] == pytest.approx(0.16)
    assert found["whole"]["p50"] == pytest.approx(1.0)
    assert found["counted"] == ["usage"]


def test_failures_are_counted_by_kind_status_and_code():
    other = Failure("http", 500, None, "broken")
    again = Failure("http", 429, "rate_limit_exceeded", "slower")
    found = summary([failed(), failed(other), failed(again)])
    assert found["failures"] == [
        {"kind": "http", "status": 429, "code": "rate_limit_exceeded", "count": 2, "message": BUSY.message},
        {"kind": "http", "status": 500, "code": None, "count": 1, "message": "broken"},
    ]
    assert found["first_token"] is None
    assert found["tokens_per_second"] == 0


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 5), st.integers(0, 1)), max_size=30))
def test_counts_add_up(entries):
    records = [answered(due, wait=wait) if good else failed(due=due) for due, wait, good in entries]
    found = summary(records)
    assert found["completed"] + found["failed"] == len(records)
    assert sum(entry["count"] for entry in found["failures"]) == found["failed"]
    assert found["requests_per_second"] * found["seconds"] == pytest.approx(found["completed"])
