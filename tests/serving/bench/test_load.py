"""Loads, extents and arrivals."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.errors import UsageError
from mmbuild.serving.bench.load import Extent, Load, arrivals, parse
from support.errors import refused

RATES = st.floats(0.01, 1000)


@given(RATES, st.integers(1, 200), st.integers(0, 2**32))
def test_arrivals_increase_and_are_as_many_as_requested(rate, count, seed):
    moments = list(arrivals(rate, Extent(count), seed))
    assert len(moments) == count
    assert moments[0] > 0
    assert all(before < after for before, after in pairwise(moments))
    assert moments == list(arrivals(rate, Extent(count), seed))


@given(RATES, st.integers(1, 50), st.integers(0, 100))
def test_another_rate_scales_the_same_arrivals(rate, count, seed):
    expected = [moment / rate for moment in arrivals(1.0, Extent(count), seed)]
    assert list(arrivals(rate, Extent(count), seed)) == pytest.approx(expected)


@given(RATES, st.floats(0.01, 5), st.integers(0, 100))
def test_no_request_arrives_after_the_time(rate, seconds, seed):
    moments = list(arrivals(rate, Extent(500, seconds), seed))
    assert all(moment < seconds for moment in moments)
    assert moments == [moment for moment in arrivals(rate, Extent(500), seed) if moment < seconds]


def test_gaps_are_exponential():
    """Mean and standard deviation of exponential gaps are both 1 / rate."""
    moments = [0.0, *arrivals(4.0, Extent(20_000), 1)]
    gaps = [after - before for before, after in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(0.25, rel=0.03)
    assert deviation == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize(
    ("extent", "started", "now", "expected"),
    [
        (Extent(3), 2, 1e9, True),
        (Extent(3), 3, 0.0, False),
        (Extent(None, 2.0), 10**6, 1.9, True),
        (Extent(None, 2.0), 0, 2.0, False),
        (Extent(3, 2.0), 3, 1.0, False),
        (Extent(3, 2.0), 1, 3.0, False),
    ],
)
def test_a_run_ends_by_number_or_by_time(extent, started, now, expected):
    assert extent.goes_on(started, now) is expected


def test_lists_of_loads():
    assert parse("clients", "1, 8,8") == [Load("clients", 1), Load("clients", 8)]
    assert [load.name for load in parse("rate", "0.5,4")] == ["0.5 per second", "4 per second"]
    assert [load.at_once for load in (*parse("batch", "4"), *parse("rate", "4"))] == [4, 1]


@pytest.mark.parametrize("text", ["", "a", "1,", "0", "-1", "1.5", "nan", "inf", "1e9", "1;2"])
def test_wrong_numbers_of_requests_are_refused(text):
    refused(UsageError, "MM860", parse, "batch", text)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "4/s"])
def test_wrong_rates_are_refused(text):
    refused(UsageError, "MM860", parse, "rate", text)
